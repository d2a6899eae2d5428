//! Usage, read from the bodies of answers: every provider's shape, cut everywhere.

mod cuts;
mod fixture;
mod formats;
mod fuzz;
mod providers;
