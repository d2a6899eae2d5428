//! Telling other replicas what was seen here, and learning what they saw.

use super::super::Service;
use crate::store::StoreError;

/// How many slots go to the store at once. Decisions use the same connection and wait behind them.
const AT_ONCE: usize = 8;

/// After how many slots that failed by themselves a round ends: then it is not their fault.
const TOO_MANY_FAILED: usize = AT_ONCE;

impl Service {
    /// Exchanges what estimates are learned from with the other replicas; from time to time. One
    /// round waits for another that is under way.
    ///
    /// What the store did not take is kept, and sent with the next exchange: it adds to the same
    /// buckets of the same sketches, so it does not grow beyond them. Should it have been taken
    /// after all, because the connection broke before the answer, some samples count twice, which
    /// moves a quantile little.
    pub async fn exchange_estimates(&self) {
        let estimates = &self.0.estimates;
        let _one_at_a_time = estimates.exchanging.lock().await;
        estimates.forget_idle();
        if !self.0.store.is_shared() {
            return;
        }
        let mut failed = 0;
        for sent in estimates.to_exchange().chunks(AT_ONCE) {
            match self.0.store.exchange(sent).await {
                Ok(all) => {
                    for (sent, all) in sent.iter().zip(all) {
                        match all {
                            Ok(all) => estimates.exchanged(sent, all),
                            Err(error) => {
                                failed += 1;
                                self.exchange_failed(&error);
                            }
                        }
                    }
                }
                // The rest would fail alike. Where Redis only takes reads, every further try would
                // end the connection that decisions use once more.
                Err(error) => {
                    self.exchange_failed(&error);
                    return;
                }
            }
            if failed >= TOO_MANY_FAILED {
                return;
            }
        }
    }

    fn exchange_failed(&self, error: &StoreError) {
        self.metrics().estimate_exchange_errors.inc();
        self.store_failed(error);
    }
}
