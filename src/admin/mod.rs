//! The admin endpoint: metrics, health, status, explain.
