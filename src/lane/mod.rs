//! One queue consumed by one gateway, with all that is in flight from it: pure.
