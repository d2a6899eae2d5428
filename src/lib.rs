//! x
<<<<<<< HEAD
pub mod clock;
pub mod grpc;
=======
pub mod config;
>>>>>>> wip-config
pub mod limit;
pub mod metrics;
pub mod rules;
pub mod service;
pub mod store;
pub mod telemetry;
