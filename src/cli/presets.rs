//! `tollgate presets`: what `preset:` may name, and what it becomes.

use std::process::ExitCode;

use crate::config::presets;
use crate::settings::PresetsArgs;

/// Prints the names, or one preset with the source of its figures.
pub fn presets(args: &PresetsArgs) -> ExitCode {
    let name = args.name.as_deref().unwrap_or_default();
    let names = presets::names();
    let begin: Vec<&str> = names
        .iter()
        .copied()
        .filter(|known| known.starts_with(name))
        .collect();
    if !names.contains(&name) && args.figures.is_empty() && !begin.is_empty() {
        for name in begin {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    match presets::show(name, &args.figures) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(errors) => {
            for error in errors {
                let hint = error.hint.map(|hint| format!(": {hint}"));
                eprintln!("error: {}{}", error.message, hint.unwrap_or_default());
            }
            ExitCode::FAILURE
        }
    }
}
