//! The document `rule`: which messages of a source go where.
//!
//! Owns its shape and how it is read.

use super::condition::When;
use super::condition_read;
use super::fault::{Fault, Placed};
use super::fields::{self, Fields};
use super::gray::{self, Gray};
use super::policies::{self, Policies};
use super::source::Deliver;
use super::source_read::read_deliver;
use super::tree::{Node, Value};
use crate::model::{RuleName, SourceName, UnitId};
use std::fmt;

/// Which messages of a source go where.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Its name.
    pub name: Placed<RuleName>,
    /// The source whose messages it is about.
    pub source: Placed<SourceName>,
    /// Ascending; the first match wins.
    pub order: Placed<i64>,
    /// Which of them.
    pub when: When,
    /// Where they go.
    pub route: Placed<Route>,
    /// To which exchange, where it isn't the source's.
    pub deliver: Option<Placed<Deliver>>,
    /// What becomes of a message without a key, where the route needs one.
    pub key_absent: KeyAbsent,
    /// Which of them go elsewhere than to their owner.
    pub gray: Option<Gray>,
    /// What it says of the hours in which something is away.
    pub policies: Policies,
}

/// Where messages go.
#[derive(Debug, Clone, PartialEq)]
pub enum Route {
    /// To the seat of the message's slot.
    Owner,
    /// To the center's seat.
    Center,
    /// A copy to every unit.
    Shared,
    /// They stay in the unit.
    Local,
    /// A copy to each of these.
    Units(Vec<Placed<UnitId>>),
    /// To a person.
    Park,
    /// Nowhere.
    Drop,
}

impl Route {
    /// Whether messages are delivered at all.
    pub const fn delivers(&self) -> bool {
        !matches!(self, Self::Park | Self::Drop)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner => f.write_str("owner"),
            Self::Center => f.write_str("center"),
            Self::Shared => f.write_str("shared"),
            Self::Local => f.write_str("local"),
            Self::Park => f.write_str("park"),
            Self::Drop => f.write_str("drop"),
            Self::Units(units) => {
                f.write_str("units")?;
                for unit in units {
                    write!(f, " {}", unit.value)?;
                }
                Ok(())
            }
        }
    }
}

/// What becomes of a message without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAbsent {
    /// A person looks at it.
    Park,
    /// The center's seat gets it.
    Center,
    /// It stays in the unit.
    Local,
}

/// Orders are for people; nine digits leave room between any two.
const ORDER_MAX: i64 = 999_999_999;

pub(super) fn read(mut fields: Fields, faults: &mut Vec<Fault>) -> Option<Rule> {
    let name = fields.must("name", faults, |node, faults| {
        fields::name(node, "the rule", RuleName::parse, faults)
    });
    let source = fields.must("source", faults, |node, faults| {
        fields::name(node, "the source", SourceName::parse, faults)
    });
    let order = fields.must("order", faults, |node, faults| {
        fields::whole(node, "`order`", (-ORDER_MAX, ORDER_MAX), faults)
    });
    let when = match fields.optional("when") {
        Some(node) => condition_read::read(node, faults),
        None => Some(When::default()),
    };
    let route = fields.must("route", faults, read_route);
    let deliver = fields
        .optional("deliver")
        .and_then(|node| read_deliver(node, faults));
    let key_absent = fields.or("key_absent", KeyAbsent::Park, faults, |node, faults| {
        let words = [
            ("park", KeyAbsent::Park),
            ("center", KeyAbsent::Center),
            ("local", KeyAbsent::Local),
        ];
        fields::word(node, "`key_absent`", &words, faults)
    });
    let gray = fields.optional("gray").map(|node| gray::read(node, faults));
    let policies = policies::read(&mut fields, faults);
    fields.end(faults);
    Some(Rule {
        name: name?,
        source: source?,
        order: order?,
        when: when?,
        route: route?,
        deliver,
        key_absent,
        gray: match gray {
            Some(read) => Some(read?),
            None => None,
        },
        policies,
    })
}

fn read_route(node: Node, faults: &mut Vec<Fault>) -> Option<Placed<Route>> {
    let place = node.place.clone();
    if matches!(node.value, Value::Map(_)) {
        let mut fields = Fields::of(node, "`route`", faults)?;
        let units = fields.must("units", faults, |node, faults| {
            fields::names(node, "unit", UnitId::parse, faults)
        });
        fields.end(faults);
        let units = units?;
        if units.is_empty() {
            faults.push(fields::bad_value(
                &place,
                "no unit is named",
                "name at least one, or write `route: drop`",
            ));
            return None;
        }
        return Some(Placed {
            value: Route::Units(units),
            place,
        });
    }
    let words = [
        ("owner", &Route::Owner),
        ("center", &Route::Center),
        ("shared", &Route::Shared),
        ("local", &Route::Local),
        ("park", &Route::Park),
        ("drop", &Route::Drop),
    ];
    let value = fields::word(node, "`route`, if it isn't {units: [..]},", &words, faults)?;
    Some(Placed {
        value: value.clone(),
        place,
    })
}
