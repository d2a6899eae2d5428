//! What every store does, asked of each of them: in memory, in Redis, and in Redis with as large a
//! lease on every limit as the configuration allows, asked for ahead.
//!
//! What a lease may change, a case says: what a replica holds counts as spent where Redis is asked
//! ([`Fixture::told`](super::fixture::Fixture::told)). Everything else is the same for all.

mod amounts;
mod busy;
mod calendar;
mod decisions;
mod endings;
mod held;
mod reservations;
mod streams;
mod time;

/// Makes a test of each case for each store.
macro_rules! for_every_store {
    ($($case:ident)*) => {
        mod memory {
            $(#[tokio::test]
            async fn $case() {
                super::$case($crate::store::fixture::Fixture::memory()).await;
            })*
        }

        mod redis {
            $(#[tokio::test]
            async fn $case() {
                super::$case($crate::store::fixture::Fixture::redis()).await;
            })*
        }

        mod leased {
            $(#[tokio::test]
            async fn $case() {
                super::$case($crate::store::fixture::Fixture::leased()).await;
            })*
        }
    };
}
use for_every_store;
