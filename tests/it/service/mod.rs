//! The use cases, over the store in memory: what a request is answered and what it leaves behind.

mod answers;
mod api;
mod budgets;
mod calendar;
mod costs;
mod decision_table;
mod dialects;
mod hits;
mod invalid;
mod learned;
mod limits;
mod metrics;
mod modes;
mod names;
mod presets;
mod reload;
mod replays;
mod reports;
mod reservations;
mod retries;
mod statistics;
