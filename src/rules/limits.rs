//! The limits of a domain, each once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{ConfiguredLimit, Identity, LimitIndex, Terms};

/// A limit is compared with so many that have its name and numbers. It is only to save memory: two
/// that say the same may as well be two.
const COMPARED: usize = 8;

/// The limits of a domain while it is read.
///
/// Rules that say the same of a limit (all tenants of a tier, say) have one between them. So ten
/// thousand rules take little memory, and a decision finds in the processor's cache what another
/// tenant's left there.
#[derive(Debug, Default)]
pub struct Limits {
    distinct: Vec<Arc<ConfiguredLimit>>,
    alike: HashMap<(Identity, Terms), Vec<Arc<ConfiguredLimit>>>,
    texts: HashSet<Arc<str>>,
}

impl Limits {
    /// Takes a limit in, whatever its index: another rule's that says the same, or this one under
    /// the next index. One with a budget is its rule's own, because its use is told of that rule.
    pub fn add(&mut self, mut limit: ConfiguredLimit) -> Arc<ConfiguredLimit> {
        let alike = self.alike.entry((limit.identity, limit.terms)).or_default();
        if limit.budget.is_none()
            && let Some(known) = alike.iter().find(|known| known.says_the_same(&limit))
        {
            return Arc::clone(known);
        }
        limit.index = LimitIndex(self.distinct.len());
        // A decision reads both.
        for text in [&mut limit.name, &mut limit.label] {
            share(&mut self.texts, text);
        }
        let limit = Arc::new(limit);
        self.distinct.push(Arc::clone(&limit));
        if limit.budget.is_none() && alike.len() < COMPARED {
            alike.push(Arc::clone(&limit));
        }
        limit
    }

    /// All of them, by their index.
    pub fn into_distinct(self) -> Vec<Arc<ConfiguredLimit>> {
        self.distinct
    }
}

/// Limits with numbers of their own often have a name in common.
fn share(known: &mut HashSet<Arc<str>>, text: &mut Arc<str>) {
    match known.get(text) {
        Some(known) => *text = Arc::clone(known),
        None => drop(known.insert(Arc::clone(text))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{Effect, MissingUsage};
    use crate::rules::{Budget, OnStoreError, Origin, Override, Unit};

    fn limit(amount: u32) -> ConfiguredLimit {
        let limit = Override {
            requests_per_unit: amount,
            unit: Unit::Minute,
        };
        limit.limit("d")
    }

    /// The indexes that these get, one after the other.
    fn indexes(limits: impl IntoIterator<Item = ConfiguredLimit>) -> Vec<usize> {
        let mut known = Limits::default();
        let added = limits.into_iter().map(|limit| known.add(limit).index.0);
        added.collect()
    }

    #[test]
    fn what_says_the_same_is_the_same() {
        let mut limits = Limits::default();
        let first = limits.add(limit(5));
        let other = limits.add(limit(7));
        let again = limits.add(limit(5));
        assert!(Arc::ptr_eq(&first, &again));
        let all = limits.into_distinct();
        assert!(Arc::ptr_eq(&all[0], &first) && Arc::ptr_eq(&all[1], &other));
        assert_eq!((first.index.0, other.index.0, all.len()), (0, 1, 2));
    }

    #[test]
    fn names_are_shared_by_limits_that_differ() {
        let mut limits = Limits::default();
        let named = |name: &str, amount| ConfiguredLimit {
            name: name.into(),
            label: name.into(),
            ..limit(amount)
        };
        let [first, second, other] =
            [("a", 5), ("a", 7), ("b", 5)].map(|(name, amount)| limits.add(named(name, amount)));
        assert!(Arc::ptr_eq(&first.name, &second.name) && Arc::ptr_eq(&first.name, &first.label));
        assert_eq!((&*first.label, &*other.label), ("a", "b"));
    }

    #[test]
    fn whatever_differs_keeps_limits_apart() {
        let changes: [fn(&mut ConfiguredLimit); 8] = [
            |limit| limit.label = "other".into(),
            |limit| limit.effect = Effect::Shadow,
            |limit| limit.origin = Some(Arc::new(Origin::default())),
            |limit| limit.headroom = vec![("low".to_owned(), 5)],
            |limit| limit.replaces = vec!["other".to_owned()],
            |limit| limit.on_store_error = OnStoreError::Deny,
            |limit| limit.missing_usage = MissingUsage::Release,
            |limit| limit.name = "other".into(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut changed = limit(5);
            change(&mut changed);
            let twice = [limit(5), changed.clone(), changed, limit(5)];
            assert_eq!(indexes(twice), [0, 1, 1, 0], "change {number}");
        }
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
        let limits = [watched(), watched(), limit(5), watched(), limit(5)];
        assert_eq!(indexes(limits), [0, 1, 2, 3, 2]);
    }

    #[test]
    fn a_few_are_compared_with_and_more_stay_apart() {
        let alike = |number: usize| ConfiguredLimit {
            replaces: vec![number.to_string()],
            ..limit(5)
        };
        let numbers = (0..=COMPARED).chain([0, COMPARED]);
        let mut expected: Vec<usize> = (0..=COMPARED).collect();
        expected.extend([0, COMPARED + 1]);
        assert_eq!(indexes(numbers.map(alike)), expected);
    }
}
