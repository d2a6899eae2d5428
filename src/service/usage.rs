//! What our API is told was used, held to its bounds.

use super::api::ApiError;
use super::request::MAX_ADDEND;
use crate::limit::MAX_MEASURED;
use crate::usage::{Name, Reported, Said};

/// What a usage comes to, if all of it can be.
pub(super) fn said(usage: Reported) -> Result<Said, ApiError> {
    for name in Name::ALL {
        let most = match name {
            Name::Total => MAX_ADDEND,
            _ => MAX_MEASURED,
        };
        too_many(name, usage.get(name), most)?;
    }
    let said = usage.resolve()?;
    // One number that is not taken apart is the cost itself, and has an addend's bound.
    if let Said::Tokens(tokens) = said {
        too_many(Name::TotalTokens, Some(tokens), MAX_ADDEND)?;
    }
    Ok(said)
}

fn too_many(name: Name, count: Option<u64>, most: u64) -> Result<(), ApiError> {
    match count {
        Some(count) if count > most => {
            let problem = format!("{count} is more than the {most} that one report may count");
            let name = name.name();
            Err(ApiError::BadUsage { name, problem })
        }
        _ => Ok(()),
    }
}
