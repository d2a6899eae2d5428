//! What can be said about a decision by one who saw its buckets a while ago.
//!
//! Between two looks at a bucket others may take from it, and time gives back. Only the second
//! helps a charge to fit, and how much it gives back is known. So whoever saw a bucket in which a
//! cost did not fit knows until when it cannot, unless somebody gives something back meanwhile.

use super::{Bucket, Charge, Effect, WhenOver};

impl Charge {
    /// Whether a refusal that it has a part in changes nothing and can be foretold: not where it is
    /// charged although it does not fit, and not where it gives something back itself.
    pub const fn may_be_foretold(&self) -> bool {
        matches!(self.limit.when_over, WhenOver::Refuse) && self.amount >= 0
    }
}

/// Whether `charges` are refused for sure, even if nobody has taken anything from their buckets
/// since they were seen. `slots[i]` is the index in `buckets` of the bucket of `charges[i]`;
/// `buckets` are as they were seen, and refilled up to now.
///
/// All charges must be such that [`Charge::may_be_foretold`]: then those before it in the same
/// decision only make it harder for one to fit.
pub fn surely_refused(charges: &[Charge], slots: &[usize], buckets: &[Bucket]) -> bool {
    let mut quotas: usize = 0;
    let mut quotas_over: usize = 0;
    for (charge, slot) in charges.iter().zip(slots) {
        let Some(bucket) = buckets.get(*slot) else {
            return false;
        };
        let over = charge
            .threshold
            .is_none_or(|threshold| bucket.spent > threshold);
        match charge.effect {
            Effect::Enforce if over => return true,
            Effect::Quota => {
                quotas = quotas.saturating_add(1);
                quotas_over = quotas_over.saturating_add(usize::from(over));
            }
            Effect::Enforce | Effect::Record | Effect::Shadow => {}
        }
    }
    quotas > 0 && quotas_over == quotas
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Algorithm, Limit, Oversize, Rate, ZeroCost};
    use super::*;

    fn charge(amount: i64, effect: Effect) -> Charge {
        let limit = Limit {
            algorithm: Algorithm::TokenBucket,
            rate: Rate::new(10, Duration::from_hours(1)).unwrap(),
            burst: 10,
            when_over: WhenOver::Refuse,
            oversize: Oversize::Refuse,
            zero_cost: ZeroCost::NeedsRoom,
        };
        Charge {
            limit,
            amount,
            threshold: limit.threshold(amount, 0),
            effect,
        }
    }

    fn spent(spent: u64) -> Bucket {
        Bucket {
            spent,
            ..Bucket::default()
        }
    }

    #[test]
    fn one_that_enforces_and_cannot_fit_is_enough() {
        let (small, large) = (charge(1, Effect::Enforce), charge(4, Effect::Enforce));
        let buckets = [spent(0), spent(7)];
        assert!(!surely_refused(&[small, large], &[0, 0], &buckets));
        assert!(surely_refused(&[small, large], &[0, 1], &buckets));
        assert!(!surely_refused(&[large, small], &[0, 1], &buckets));
        // Larger than the burst.
        assert!(surely_refused(
            &[charge(11, Effect::Enforce)],
            &[0],
            &buckets
        ));
    }

    #[test]
    fn quotas_have_to_be_over_all_of_them() {
        let quota = charge(4, Effect::Quota);
        let buckets = [spent(0), spent(7)];
        assert!(!surely_refused(&[quota, quota], &[0, 1], &buckets));
        assert!(surely_refused(&[quota, quota], &[1, 1], &buckets));
        assert!(!surely_refused(
            &[charge(4, Effect::Shadow)],
            &[1],
            &buckets
        ));
        assert!(!surely_refused(
            &[charge(4, Effect::Record)],
            &[1],
            &buckets
        ));
    }

    #[test]
    fn what_an_earlier_charge_of_the_same_decision_takes_is_not_counted() {
        // In a bucket with 3 spent the one of 8 would not fit, and take nothing: the one of 3 does.
        let (large, small) = (charge(8, Effect::Shadow), charge(3, Effect::Enforce));
        assert!(!surely_refused(&[large, small], &[0, 0], &[spent(1)]));
    }

    #[test]
    fn what_charges_when_over_or_gives_back_cannot_be_foretold() {
        assert!(charge(0, Effect::Enforce).may_be_foretold());
        assert!(!charge(-1, Effect::Record).may_be_foretold());
        let mut charged = charge(1, Effect::Enforce);
        charged.limit.when_over = WhenOver::Charge;
        assert!(!charged.may_be_foretold());
    }
}
