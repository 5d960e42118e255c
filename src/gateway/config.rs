//! gateway.yaml, parsed once into what is meant.
