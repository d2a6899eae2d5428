//! The stores and a naive model agree, to the last bit, over random histories.

mod arithmetic;
pub(super) mod histories;
mod history;
mod leased;
mod naive;
mod never_over;
mod run;
