//! Random histories do the same to a store as to the model.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::history::{BUCKETS, histories};
use super::run::{Run, bucket_name};
use crate::store::fixture::Fixture;

#[test]
fn the_memory_store_does_what_the_model_does() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    proptest!(config(1000), |(history in histories(60))| {
        let fixture = Fixture::memory();
        let run = Run::new(&fixture, 0, &history);
        let (naive, _) = runtime.block_on(run.finish())?;
        prop_assert_eq!(fixture.bucket_count(), naive.buckets.len());
    });
}

#[test]
fn redis_does_what_the_model_does() {
    // One thread, so that all that is asked at one moment has gathered when the first is sent.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let operations = Arc::new(AtomicUsize::new(0));
    let (count_calls, count_operations) = (Arc::clone(&calls), Arc::clone(&operations));
    let fixture = runtime.block_on(async {
        Fixture::redis_with(|options| {
            // Everything is asked of Redis.
            options.refusal_memory = Duration::ZERO;
            options.on_call = Some(Arc::new(move |call| {
                count_calls.fetch_add(1, Ordering::Relaxed);
                count_operations.fetch_add(call.operations, Ordering::Relaxed);
            }));
        })
    });
    let case = AtomicUsize::new(0);
    let batches = AtomicUsize::new(0);
    proptest!(config(300), |(history in histories(60))| {
        let case = case.fetch_add(1, Ordering::Relaxed);
        let run = Run::new(&fixture, case, &history);
        let (naive, sent) = runtime.block_on(run.finish())?;
        batches.fetch_add(sent, Ordering::Relaxed);
        for bucket in 0..BUCKETS {
            let known = fixture.bucket_lifetime(&bucket_name(case, bucket)).is_some();
            prop_assert_eq!(known, naive.buckets.contains_key(&bucket));
        }
    });
    // What was asked at one moment went in one call, so the order within a call is covered too.
    let calls = calls.load(Ordering::Relaxed);
    assert_eq!(calls, batches.load(Ordering::Relaxed));
    assert!(operations.load(Ordering::Relaxed) > 2 * calls);
}

#[test]
fn what_is_refused_without_redis_the_model_refuses_too() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    let fixture = runtime.block_on(async {
        Fixture::redis_with(|options| {
            // Nobody else gives anything back, so it may be remembered for ever.
            options.refusal_memory = Duration::MAX;
            options.on_local_refusal = Some(Arc::new(move || {
                count.fetch_add(1, Ordering::Relaxed);
            }));
        })
    });
    let case = AtomicUsize::new(0);
    proptest!(config(300), |(history in histories(60))| {
        let case = case.fetch_add(1, Ordering::Relaxed);
        let run = Run::new(&fixture, case, &history).with_refusals_remembered();
        runtime.block_on(run.finish())?;
    });
    let refused = refused.load(Ordering::Relaxed);
    assert!(refused > 30, "only {refused} were refused without Redis");
}

pub(in crate::store) fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        source_file: Some(file!()),
        ..ProptestConfig::with_cases(cases)
    }
}
