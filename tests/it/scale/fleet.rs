//! 64 replicas.
