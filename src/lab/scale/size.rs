//! Sizes of a space.

use serde::Serialize;

/// How large a space is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Size {
    pub(super) units: usize,
    /// Of each unit.
    pub(super) gateways: usize,
    pub(super) rules: usize,
}

/// From a small space to the largest that is looked at.
pub(super) const SIZES: [Size; 5] = [
    Size::new(3, 2, 30),
    Size::new(10, 2, 100),
    Size::new(20, 5, 200),
    Size::new(35, 7, 350),
    Size::new(50, 10, 500),
];

impl Size {
    const fn new(units: usize, gateways: usize, rules: usize) -> Self {
        Self {
            units,
            gateways,
            rules,
        }
    }

    /// All gateways.
    pub(super) fn all(self) -> usize {
        self.units * self.gateways
    }
}
