//! The shell around etcd: a space's keys read at one revision, watched from the next, changed in transactions.
