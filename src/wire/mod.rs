//! The shell around links: HTTP/2, TLS, the peers' names.
