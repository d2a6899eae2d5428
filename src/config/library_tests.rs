//! Files that come, change, break and go.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::rules::{Domain, Terms};

use super::{Library, LoadReport};

/// A directory of configuration files.
struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.path().join(name)).unwrap();
    }

    fn open(&self) -> (Library, LoadReport) {
        Library::open(vec![self.path()], false)
    }
}

/// A file with the domain `name`, whose one limit allows `amount`.
fn file(name: &str, amount: u64) -> String {
    format!("domain: {name}\ndescriptors:\n  - {}", rule("k", amount))
}

fn rule(key: &str, amount: u64) -> String {
    format!("{{ key: {key}, rate_limit: {{ unit: day, requests_per_unit: {amount} }} }}\n")
}

/// What the first limit of each domain allows.
fn amounts(library: &Library) -> Vec<(&str, u64)> {
    let amount = |domain: &Domain| match domain.limits[0].terms {
        Terms::Limited(limit) => limit.burst,
        Terms::Unlimited => panic!("{domain:?}"),
    };
    library
        .domains()
        .iter()
        .map(|(name, domain)| (name.as_str(), amount(domain)))
        .collect()
}

fn messages(report: &LoadReport, directory: &Directory) -> Vec<String> {
    let prefix = format!("{}/", directory.path().display());
    report
        .errors
        .iter()
        .map(|error| error.to_string().replace(&prefix, ""))
        .collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn a_directory_is_its_yaml_files() {
    let directory = Directory::new();
    directory.write("a.yaml", &file("a", 1));
    directory.write("b.yml", &file("b", 2));
    directory.write("README.md", "not yaml: [");
    directory.write(".hidden.yaml", &file("a", 3));
    fs::create_dir(directory.path().join("deeper.yaml")).unwrap();
    let (library, report) = directory.open();
    assert_eq!(amounts(&library), [("a", 1), ("b", 2)]);
    assert_eq!(
        report,
        LoadReport {
            changed: names(&["a", "b"]),
            ..LoadReport::default()
        }
    );
}

#[test]
fn a_file_may_be_named_and_is_read_once() {
    let directory = Directory::new();
    let path = directory.write("a.conf", &file("a", 1));
    let b = directory.write("b.yaml", &file("b", 2));
    let (library, report) = Library::open(vec![path, b, directory.path()], false);
    assert_eq!(messages(&report, &directory), [""; 0]);
    assert_eq!(amounts(&library), [("a", 1), ("b", 2)]);
}

#[test]
fn what_did_not_change_keeps_its_arc() {
    let directory = Directory::new();
    directory.write("a.yaml", &file("a", 1));
    directory.write("b.yaml", &file("b", 2));
    let (mut library, _) = directory.open();
    let before = Arc::clone(&library.domains()["a"]);
    directory.write("b.yaml", &file("b", 3));
    directory.write("c.yaml", &file("c", 4));
    let report = library.reload();
    assert_eq!(report.changed, ["b", "c"]);
    assert_eq!(report.unchanged, ["a"]);
    assert!(Arc::ptr_eq(&before, &library.domains()["a"]));
    assert_eq!(amounts(&library), [("a", 1), ("b", 3), ("c", 4)]);
    assert!(!library.reload().changes_anything());
}

#[test]
fn a_broken_file_keeps_its_domain_while_others_reload() {
    let directory = Directory::new();
    directory.write("a.yaml", &file("a", 1));
    directory.write("b.yaml", &file("b", 1));
    let (mut library, _) = directory.open();
    for broken in [
        "domain: a\ndescriptors: [",
        "",
        "domain: a\nunknown: 1\n",
        "domain: c\nkey: 1\n",
    ] {
        directory.write("a.yaml", broken);
        directory.write("b.yaml", &file("b", broken.len() as u64 + 2));
        let report = library.reload();
        assert_eq!(report.kept, ["a"], "{broken}");
        assert_eq!(report.changed, ["b"], "{broken}");
        assert_eq!(report.errors.len(), 1, "{report:?}");
        assert_eq!(
            amounts(&library),
            [("a", 1), ("b", broken.len() as u64 + 2)]
        );
    }
    directory.write("a.yaml", &file("a", 9));
    let report = library.reload();
    assert_eq!((report.changed, report.kept), (names(&["a"]), names(&[])));
    assert_eq!(amounts(&library)[0], ("a", 9));
}

#[test]
fn a_first_load_takes_what_is_right() {
    let directory = Directory::new();
    directory.write("a.yaml", "domain: a\ndescriptors: 5\n");
    directory.write("b.yaml", &file("b", 1));
    let (library, report) = directory.open();
    assert_eq!(
        messages(&report, &directory),
        ["a.yaml:2:14: descriptors must be a list, not '5'"]
    );
    assert_eq!((report.changed, report.kept), (names(&["b"]), names(&[])));
    assert_eq!(amounts(&library), [("b", 1)]);
}

#[test]
fn a_file_that_is_gone_takes_its_domain_with_it() {
    let directory = Directory::new();
    directory.write("a.yaml", &file("a", 1));
    directory.write("b.yaml", &file("b", 2));
    let (mut library, _) = directory.open();
    directory.remove("a.yaml");
    let report = library.reload();
    assert_eq!(report.removed, ["a"]);
    assert_eq!(amounts(&library), [("b", 2)]);
    // It may come back under another name.
    directory.write("z.yaml", &file("a", 5));
    assert_eq!(library.reload().changed, ["a"]);
}

#[test]
fn no_domain_goes_while_a_wrong_file_may_be_its_own() {
    let directory = Directory::new();
    directory.write("a.yaml", &file("a", 1));
    directory.write("b.yaml", &file("b", 2));
    let (mut library, _) = directory.open();
    directory.remove("a.yaml");
    for broken in ["domain: [", "descriptors: []\n"] {
        directory.write("new.yaml", broken);
        let report = library.reload();
        assert_eq!(
            (report.kept, report.removed),
            (names(&["a"]), names(&[])),
            "{broken}"
        );
    }
    // Whose this one is can be read.
    directory.write("new.yaml", "domain: c\nkey: 1\n");
    let report = library.reload();
    assert_eq!((report.kept, report.removed), (names(&[]), names(&["a"])));
    assert_eq!(amounts(&library), [("b", 2)]);
}

#[test]
fn a_file_may_become_another_domain() {
    let directory = Directory::new();
    directory.write("a.yaml", &file("a", 1));
    let (mut library, _) = directory.open();
    directory.write("a.yaml", &file("b", 2));
    let report = library.reload();
    assert_eq!(
        (report.changed, report.removed),
        (names(&["b"]), names(&["a"]))
    );
    // A domain that moves to another file stays the same one.
    fs::rename(
        directory.path().join("a.yaml"),
        directory.path().join("b.yaml"),
    )
    .unwrap();
    let report = library.reload();
    assert_eq!(
        (report.changed, report.removed),
        (names(&["b"]), names(&[]))
    );
}

#[test]
fn a_directory_that_is_gone_keeps_everything() {
    let directory = Directory::new();
    let inner = directory.path().join("conf");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), file("a", 1)).unwrap();
    let named = directory.write("b.yaml", &file("b", 2));
    let (mut library, report) = Library::open(vec![inner.clone(), named.clone()], false);
    assert_eq!(report.changed, ["a", "b"]);
    fs::rename(&inner, directory.path().join("elsewhere")).unwrap();
    fs::remove_file(&named).unwrap();
    let report = library.reload();
    assert_eq!((report.kept.len(), report.removed.len()), (2, 0));
    assert!(messages(&report, &directory)[0].starts_with("conf: cannot be read: "));
    assert!(messages(&report, &directory)[1].starts_with("b.yaml: cannot be read: "));
    assert_eq!(amounts(&library), [("a", 1), ("b", 2)]);
}

#[test]
fn a_link_that_leads_nowhere_and_a_file_that_is_no_text_keep_their_domain() {
    let directory = Directory::new();
    let path = directory.write("a.yaml", &file("a", 1));
    let (mut library, _) = directory.open();
    fs::write(&path, b"domain: a\n# \xff\n").unwrap();
    let report = library.reload();
    assert_eq!(
        messages(&report, &directory),
        ["a.yaml:2:3: the file is not UTF-8 text"]
    );
    assert_eq!(report.kept, ["a"]);
    fs::remove_file(&path).unwrap();
    symlink("nowhere", &path).unwrap();
    let report = library.reload();
    assert!(messages(&report, &directory)[0].starts_with("a.yaml: cannot be read: "));
    assert_eq!(report.kept, ["a"]);
}

#[test]
fn two_files_of_one_domain_are_an_error_that_keeps_it() {
    let directory = Directory::new();
    directory.write("b.yaml", &file("d", 1));
    let (mut library, _) = directory.open();
    directory.write("a.yaml", &file("d", 2));
    let report = library.reload();
    let first = directory.path().join("a.yaml");
    assert_eq!(
        report.errors[0].to_string(),
        format!(
            "{}:1:9: duplicate domain 'd' in config file: the first is {}",
            directory.path().join("b.yaml").display(),
            first.display()
        )
    );
    assert_eq!((report.errors.len(), report.kept), (1, names(&["d"])));
    assert_eq!(amounts(&library), [("d", 1)]);
}

fn merged(directory: &Directory) -> (Library, LoadReport) {
    Library::open(vec![directory.path()], true)
}

#[test]
fn files_of_one_domain_are_merged_where_that_is_wanted() {
    let directory = Directory::new();
    directory.write(
        "a.yaml",
        "domain: d
answer: { body: plain }
costs: { out: { output_tokens: 1 } }
descriptors: [{ key: k1, value: a*, limits: [{ name: l, rate: 10/minute, cost: out }] }]
",
    );
    directory.write(
        "b.yaml",
        "domain: d
defaults: { on_store_error: deny }
descriptors: [{ key: k1, value: ab*, rate_limit: { unit: minute, requests_per_unit: 20 } }]
",
    );
    let (mut library, report) = merged(&directory);
    assert_eq!(messages(&report, &directory), [""; 0]);
    assert_eq!(
        super::outline(&library.domains()["d"]),
        "domain 'd': 2 rules, 2 limits; headers: retry-after; body: plain
k1=a*
  l: 10/minute, token_bucket, burst 10, cost: output_tokens
k1=ab*
  k1_ab*: 20/minute, fixed_window, cost: hits, charged when over, denied without the store
"
    );
    // Wildcards are tried in the order of the files.
    let domain = &library.domains()["d"];
    let found = domain.find(&[("k1", "abc")], &mut String::new()).unwrap();
    assert_eq!(&*found.rule.path, "k1=a*");

    directory.remove("b.yaml");
    let report = library.reload();
    assert_eq!(
        (report.changed, report.removed),
        (names(&["d"]), names(&[]))
    );
    assert_eq!(library.domains()["d"].limits.len(), 1);
}

#[test]
fn what_merged_files_may_not_do_names_both() {
    let directory = Directory::new();
    let text = "domain: d\nanswer: { body: plain }\ndescriptors: [{ key: k }]\n";
    directory.write("a.yaml", text);
    directory.write("b.yaml", text);
    let (library, report) = merged(&directory);
    assert_eq!(
        messages(&report, &directory),
        [
            "b.yaml:2:9: answer is given in two files of one domain: the first is a.yaml",
            "b.yaml:3:22: duplicate descriptor composite key 'd.k' (in rule k): \
             the first is in a.yaml, line 3",
        ]
    );
    assert!(library.domains().is_empty());
}

#[test]
fn a_merged_domain_is_kept_whole_when_one_of_its_files_breaks() {
    let directory = Directory::new();
    directory.write(
        "a.yaml",
        &format!("domain: d\ndescriptors:\n  - {}", rule("a", 1)),
    );
    directory.write(
        "b.yaml",
        &format!("domain: d\ndescriptors:\n  - {}", rule("b", 1)),
    );
    let (mut library, _) = merged(&directory);
    directory.write(
        "a.yaml",
        &format!("domain: d\ndescriptors:\n  - {}", rule("a", 7)),
    );
    directory.write("b.yaml", "domain: d\ndescriptors: [");
    let report = library.reload();
    assert_eq!((report.kept, report.changed), (names(&["d"]), names(&[])));
    assert_eq!(amounts(&library), [("d", 1)]);
    assert_eq!(library.domains()["d"].limits.len(), 2);
}

/// What the kubelet does: `..data` is a link to a directory of a version, the files are links into
/// `..data`, and a new version comes by renaming a new link over the old one.
fn publish(mount: &Path, version: &str, files: &[(&str, String)]) {
    fs::create_dir(mount.join(version)).unwrap();
    for (name, text) in files {
        fs::write(mount.join(version).join(name), text).unwrap();
    }
    symlink(version, mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    for (name, _) in files {
        if !mount.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), mount.join(name)).unwrap();
        }
    }
}

#[test]
fn a_config_map_is_followed() {
    let directory = Directory::new();
    let mount = directory.path();
    publish(
        &mount,
        "..2026_01",
        &[("a.yaml", file("a", 1)), ("b.yaml", file("b", 1))],
    );
    let (mut library, report) = directory.open();
    assert_eq!(messages(&report, &directory), [""; 0]);
    assert_eq!(amounts(&library), [("a", 1), ("b", 1)]);
    publish(
        &mount,
        "..2026_02",
        &[("a.yaml", file("a", 2)), ("b.yaml", file("b", 1))],
    );
    let report = library.reload();
    assert_eq!(
        (report.changed, report.unchanged),
        (names(&["a"]), names(&["b"]))
    );
    assert_eq!(amounts(&library), [("a", 2), ("b", 1)]);
}
