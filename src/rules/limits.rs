//! The limits of a domain, each once.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use super::{ConfiguredLimit, Identity, LimitIndex, Terms};

/// The limits of a domain, by their [`LimitIndex`].
///
/// Rules that say the same of a limit (all tenants of a tier, say) have one between them. So ten
/// thousand rules take little memory, and a decision finds in the processor's cache what another
/// tenant's left there.
#[derive(Debug, Default)]
pub struct Limits {
    distinct: Vec<Arc<ConfiguredLimit>>,
    alike: HashMap<(Identity, Terms), Vec<LimitIndex>>,
}

impl Limits {
    /// Takes a limit in, whatever its index: another rule's that says the same, or this one under
    /// the next index. One with a budget is its rule's own, because its use is told of that rule.
    pub fn add(&mut self, mut limit: ConfiguredLimit) -> Arc<ConfiguredLimit> {
        let next = LimitIndex(self.distinct.len());
        if limit.budget.is_none() {
            let alike = self.alike.entry((limit.identity, limit.terms)).or_default();
            for index in &*alike {
                limit.index = *index;
                if let Some(known) = self.distinct.get(index.0)
                    && **known == limit
                {
                    return Arc::clone(known);
                }
            }
            alike.push(next);
        }
        limit.index = next;
        let limit = Arc::new(limit);
        self.distinct.push(Arc::clone(&limit));
        limit
    }
}

impl Deref for Limits {
    type Target = [Arc<ConfiguredLimit>];

    fn deref(&self) -> &Self::Target {
        &self.distinct
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Budget, Override, Unit};

    fn limit(amount: u32) -> ConfiguredLimit {
        let limit = Override {
            requests_per_unit: amount,
            unit: Unit::Minute,
        };
        limit.limit("d")
    }

    #[test]
    fn what_says_the_same_is_the_same() {
        let mut limits = Limits::default();
        let first = limits.add(limit(5));
        let other = limits.add(limit(7));
        let again = limits.add(limit(5));
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!((first.index.0, other.index.0, limits.len()), (0, 1, 2));
        assert_eq!(limits[1], other);
    }

    #[test]
    fn whatever_differs_keeps_limits_apart() {
        let mut limits = Limits::default();
        let plain = limits.add(limit(5));
        let shadow = limits.add(ConfiguredLimit {
            effect: crate::limit::Effect::Shadow,
            ..limit(5)
        });
        assert!(!Arc::ptr_eq(&plain, &shadow));
        assert_eq!(limits.add(limit(5)).index, plain.index);
        assert_eq!(limits.len(), 2);
    }

    #[test]
    fn a_budget_is_of_one_rule() {
        let watched = || ConfiguredLimit {
            budget: Some(Box::new(Budget {
                alert_at: Vec::new(),
                rule: "k".to_owned(),
                bucket: None,
            })),
            ..limit(5)
        };
        let mut limits = Limits::default();
        let indexes =
            [watched(), watched(), limit(5), watched()].map(|limit| limits.add(limit).index.0);
        assert_eq!(indexes, [0, 1, 2, 3]);
    }
}
