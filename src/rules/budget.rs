//! Budgets: limits whose use is watched, and told before it is all gone.

use super::BucketKey;

/// A share of a limit, in thousandths: above none and at most all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    /// So many thousandths; `None` for zero and above 1000.
    pub const fn from_thousandths(thousandths: u16) -> Option<Self> {
        match thousandths {
            1..=1000 => Some(Self(thousandths)),
            _ => None,
        }
    }

    /// Whether so much of `whole` is this share of it, or more.
    pub fn is_reached(self, spent: u64, whole: u64) -> bool {
        u128::from(spent) * 1000 >= u128::from(whole) * u128::from(self.0)
    }
}

/// As in `0.7`.
impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (whole, part) = (self.0 / 1000, self.0 % 1000);
        write!(f, "{whole}")?;
        match format!("{part:03}").trim_end_matches('0') {
            "" => Ok(()),
            part => write!(f, ".{part}"),
        }
    }
}

/// What is watched of a limit's use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The shares whose crossing is told, ascending.
    pub alert_at: Vec<Share>,
    /// The path of its rule.
    pub rule: String,
    /// Its only bucket, where the configuration names all values of the rule; `None` where callers
    /// do.
    pub bucket: Option<BucketKey>,
}

impl Budget {
    /// The shares of `whole` that are reached when so much is charged that `after` is spent, and
    /// were not before. Of all charges on a bucket in a window, each share is crossed by one,
    /// unless something is given back meanwhile.
    pub fn crossed(
        &self,
        whole: u64,
        charged: i64,
        after: u64,
    ) -> impl Iterator<Item = (usize, Share)> {
        // A refund crosses nothing.
        let before = after.saturating_sub(u64::try_from(charged).unwrap_or(0));
        self.alert_at
            .iter()
            .copied()
            .enumerate()
            .filter(move |(_, share)| {
                share.is_reached(after, whole) && !share.is_reached(before, whole)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(thousandths: u16) -> Share {
        Share::from_thousandths(thousandths).unwrap()
    }

    #[test]
    fn a_share_is_above_none_and_at_most_all() {
        assert_eq!(Share::from_thousandths(0), None);
        assert_eq!(Share::from_thousandths(1001), None);
        let texts = [1, 70, 700, 995, 1000].map(|thousandths| share(thousandths).to_string());
        assert_eq!(texts, ["0.001", "0.07", "0.7", "0.995", "1"]);
    }

    #[test]
    fn a_share_is_crossed_by_the_charge_that_reaches_it() {
        let budget = Budget {
            alert_at: vec![share(700), share(900), share(1000)],
            rule: String::new(),
            bucket: None,
        };
        let crossed = |charged, after| -> Vec<String> {
            let crossed = budget.crossed(1001, charged, after);
            crossed.map(|(_, share)| share.to_string()).collect()
        };
        let none: [&str; 0] = [];
        // 70 % of 1,001 are 700.7.
        assert_eq!(crossed(700, 700), none);
        assert_eq!(crossed(1, 701), ["0.7"]);
        assert_eq!(crossed(1, 702), none);
        assert_eq!(crossed(299, 1000), ["0.9"]);
        assert_eq!(crossed(5000, 5000), ["0.7", "0.9", "1"]);
        assert_eq!(crossed(-5, 900), none);
        assert_eq!(crossed(0, 701), none);
    }
}
