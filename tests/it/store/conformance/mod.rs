//! What every store does, asked of each of them.

mod amounts;
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
    };
}
use for_every_store;
