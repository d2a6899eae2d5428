//! `tollgate call`: asks a running service.

use std::process::ExitCode;

use crate::grpc::client::{Caller, Question, Reply};
use crate::settings::CallArgs;

/// Asks, and prints the answers. Ends with 1 if any call is refused, with 2 if one is not answered.
pub async fn call(args: CallArgs) -> ExitCode {
    let mut caller = match Caller::connect(&args.address).await {
        Ok(caller) => caller,
        Err(error) => return super::fail(&error.to_string()),
    };
    let mut descriptors: Vec<Vec<(String, String)>> = Vec::new();
    if !args.entries.is_empty() {
        descriptors.push(args.entries);
    }
    descriptors.extend(args.descriptors.into_iter().map(|list| list.0));
    let question = Question {
        domain: args.domain,
        descriptors,
        hits: args.hits,
        request_hits: 0,
    };

    let mut code = ExitCode::SUCCESS;
    for number in 1..=args.repeat {
        match caller.ask(&question).await {
            Ok(reply) => {
                if reply.code != "OK" {
                    code = ExitCode::FAILURE;
                }
                if args.json {
                    println!("{}", serde_json::json!(reply));
                } else {
                    print!(
                        "{}",
                        readable(&reply, &question, (args.repeat > 1).then_some(number))
                    );
                }
            }
            Err(error) => return super::fail(&error.to_string()),
        }
    }
    code
}

fn readable(reply: &Reply, question: &Question, number: Option<u32>) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    // Writing to a string cannot fail.
    if let Some(number) = number {
        _ = write!(text, "{number}: ");
    }
    _ = writeln!(text, "{}", reply.code);
    for (status, entries) in reply.statuses.iter().zip(&question.descriptors) {
        let entries: Vec<String> = entries
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        _ = write!(text, "  {:<10} {}", status.code, entries.join(" "));
        if let (Some(amount), Some(unit)) = (status.requests_per_unit, &status.unit) {
            let name = status.limit.as_deref().filter(|name| !name.is_empty());
            _ = write!(text, "  {}: {amount}/{unit}", name.unwrap_or("limit"));
            _ = write!(text, ", {} left", status.remaining);
            if let Some(seconds) = status.reset_seconds {
                _ = write!(text, ", resets in {seconds} s");
            }
        } else if status.remaining == u32::MAX {
            text.push_str("  unlimited");
        } else {
            text.push_str("  no limit");
        }
        text.push('\n');
    }
    for (name, value) in &reply.headers {
        _ = writeln!(text, "  header     {name}: {value}");
    }
    for (name, value) in &reply.metadata {
        _ = writeln!(text, "  metadata   {name}: {value}");
    }
    if !reply.body.is_empty() {
        _ = writeln!(text, "  body       {}", reply.body);
    }
    text
}
