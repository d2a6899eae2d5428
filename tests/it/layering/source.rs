//! The paths that a Rust file names, read from its words. Not a parser: it knows comments, texts,
//! `use` trees, paths, and what `#[cfg(test)]` takes away, and that is all that layering needs.

/// A path as it is written: `crate::limit::Rate`, `super::Link`, `tokio::spawn`.
pub(super) type NamedPath = Vec<String>;

/// The paths in `source`, tests left out.
pub(super) fn paths(source: &str) -> Vec<NamedPath> {
    let words = without_tests(&words(source));
    let mut paths = Vec::new();
    let mut place = 0;
    while place < words.len() {
        if words[place] == "use" {
            place = tree(&words, place + 1, &[], &mut paths);
        } else if begins_path(&words, place) {
            let mut path = vec![words[place].clone()];
            while word(&words, place + 1) == "::" && is_name(word(&words, place + 2)) {
                path.push(words[place + 2].clone());
                place += 2;
            }
            paths.push(path);
        }
        place += 1;
    }
    paths
}

/// The modules that `source` declares, and whether it waits for anything.
pub(super) fn declares(source: &str, module: &str) -> bool {
    words(source)
        .windows(2)
        .any(|pair| pair[0] == "mod" && pair[1] == module)
}

/// Whether `source` is asynchronous anywhere but in tests.
pub(super) fn is_async(source: &str) -> bool {
    without_tests(&words(source))
        .iter()
        .any(|word| word == "async" || word == "await")
}

fn begins_path(words: &[String], place: usize) -> bool {
    is_name(&words[place]) && word(words, place + 1) == "::" && (place == 0 || words[place - 1] != "::")
        // A path that begins with `::` begins with a crate.
        || is_name(&words[place])
            && place >= 1
            && words[place - 1] == "::"
            && (place == 1 || !is_name(&words[place - 2]) && words[place - 2] != ">")
}

/// Reads a tree of a `use`; returns where it ends.
fn tree(
    words: &[String],
    mut place: usize,
    before: &[String],
    paths: &mut Vec<NamedPath>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        match word(words, place) {
            "{" => loop {
                place = tree(words, place + 1, &path, paths);
                if word(words, place) != "," {
                    return place + 1;
                }
            },
            "::" => place += 1,
            "as" => place += 2,
            name if is_name(name) || name == "*" => {
                path.push(name.to_owned());
                place += 1;
            }
            _ => {
                // `self` at the end means what it is in; nothing at all is a comma at the end.
                if path.len() > before.len() || path.is_empty() {
                    paths.push(path);
                }
                return place;
            }
        }
    }
}

fn word(words: &[String], place: usize) -> &str {
    words.get(place).map_or("", String::as_str)
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Leaves out what `#[cfg(test)]` stands before.
fn without_tests(words: &[String]) -> Vec<String> {
    const TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut place = 0;
    while place < words.len() {
        if !words[place..]
            .iter()
            .zip(TEST)
            .all(|(word, test)| word == test)
            || words.len() - place < TEST.len()
        {
            kept.push(words[place].clone());
            place += 1;
            continue;
        }
        // To the end of the item: a semicolon, or the brace that closes it.
        place += TEST.len();
        let mut depth = 0_usize;
        while place < words.len() {
            match words[place].as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            place += 1;
            if depth == 0 && matches!(words[place - 1].as_str(), "}" | ";") {
                break;
            }
        }
    }
    kept
}

/// Names, `::`, and single signs; no comments, no texts.
fn words(source: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = text_length(rest) {
            length
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            words.push(rest[..length].to_owned());
            length
        } else if rest.starts_with("::") {
            words.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                words.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    words
}

/// The length of the text or the character that `rest` begins with, if it does.
fn text_length(rest: &str) -> Option<usize> {
    let after_prefix = rest.trim_start_matches(['b', 'c']);
    let prefix = rest.len() - after_prefix.len();
    if prefix > 1 {
        return None;
    }
    if let Some(raw) = after_prefix.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let begin = hashes + 1;
            let length = raw[begin..].find(&end)?;
            return Some(prefix + 1 + begin + length + end.len());
        }
        return None;
    }
    let quote = after_prefix.chars().next()?;
    if quote == '\'' {
        // A lifetime has no second quote where a character has one.
        let mut inside = after_prefix[1..].chars();
        let first = inside.next()?;
        if first != '\\' && inside.next() != Some('\'') {
            return None;
        }
    } else if quote != '"' {
        return None;
    }
    let mut escaped = false;
    for (index, c) in after_prefix.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(prefix + index + 1),
            _ => {}
        }
    }
    None
}
