//! The gateway's metrics.
