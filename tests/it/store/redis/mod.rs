//! What only a real Redis can show: many clients, calls that carry many operations, and a server
//! that stalls, restarts or is not there.

mod calls;
mod connection;
mod keys;
mod late;
mod leases;
mod plain;
mod refusals;

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tollgate::store::redis::Options;

use crate::store::fixture::PATIENT;

/// What the calls of a store carried, in their order.
#[derive(Clone, Debug, Default)]
struct Calls(Arc<Mutex<Vec<usize>>>);

impl Calls {
    /// Notes the calls that a store with these options makes.
    fn of(options: &mut Options) -> Self {
        let calls = Self::default();
        let noted = calls.clone();
        options.on_call = Some(Arc::new(move |call| {
            noted.0.lock().unwrap().push(call.operations);
        }));
        calls
    }

    fn forget(&self) {
        self.0.lock().unwrap().clear();
    }

    fn operations(&self) -> Vec<usize> {
        self.0.lock().unwrap().clone()
    }
}

/// Asks until the answer is yes. Fails the test if that takes longer than any machine needs.
async fn eventually<F: Future<Output = bool>>(what: &str, mut ask: impl FnMut() -> F) {
    let asking = async {
        while !ask().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let asked = tokio::time::timeout(PATIENT, asking).await;
    assert!(asked.is_ok(), "never: {what}");
}
