//! What gateways say to each other: frames, credits, the checks of a stream; pure.
