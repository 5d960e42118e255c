//! A whole multi-site fabric on one machine.
