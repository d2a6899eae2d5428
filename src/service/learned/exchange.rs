//! Telling other replicas what was seen here, and learning what they saw.

use super::super::Service;
use crate::store::StoreError;

/// How many slots go to the store at once. Decisions use the same connection and wait behind them.
const AT_ONCE: usize = 8;

impl Service {
    /// Exchanges what estimates are learned from with the other replicas; from time to time.
    ///
    /// What the store did not take is kept, and sent with the next exchange: it adds to the same
    /// buckets of the same sketches, so it does not grow beyond them. Should it have been taken
    /// after all, some samples count twice, which moves a quantile little.
    pub async fn exchange_estimates(&self) {
        let estimates = &self.0.estimates;
        estimates.forget_idle();
        if !self.0.store.is_shared() {
            return;
        }
        for sent in estimates.to_exchange().chunks(AT_ONCE) {
            match self.0.store.exchange(sent).await {
                Ok(all) => {
                    for (sent, all) in sent.iter().zip(all) {
                        estimates.exchanged(sent, all);
                    }
                }
                Err(error) => {
                    self.metrics().estimate_exchange_errors.inc();
                    self.store_failed(&error);
                    if !matches!(error, StoreError::Rejected(_)) {
                        return;
                    }
                }
            }
        }
    }
}
