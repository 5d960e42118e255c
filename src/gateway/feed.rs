//! The table's way from etcd into the gateway.
