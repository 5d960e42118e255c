//! The document `topology`: cities, sites, units, who stands by for whom, failover, links.
//!
//! Owns its shape and how it is read. Whether its names fit together is checked beside the other documents.

use super::fault::{Fault, FaultCode, Place, Placed};
use super::fields::{self, Fields};
use super::tree::{Node, Value};
use crate::model::{CityId, SiteId, SpaceId, UnitId};
use std::num::NonZeroU64;
use std::time::Duration;

/// The units of a space and where they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// The routing world that all of this describes.
    pub space: Placed<SpaceId>,
    /// In the order of the file.
    pub cities: Vec<Placed<CityId>>,
    /// In the order of the file.
    pub sites: Vec<Site>,
    /// In the order of the file.
    pub units: Vec<Unit>,
    /// Where `center` messages go; the first unit by default.
    pub center: Option<Placed<UnitId>>,
    /// Who decides about a takeover, and when.
    pub failover: Failover,
    /// What links between units may use.
    pub links: Vec<LinkPolicy>,
    /// A city, a site or a unit couldn't be read: what others name may be that one.
    pub incomplete: bool,
}

/// A data center.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    /// Its name.
    pub name: Placed<SiteId>,
    /// The city that it is in.
    pub city: Placed<CityId>,
}

/// One SET.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Its name.
    pub name: Placed<UnitId>,
    /// The site that it is at.
    pub site: Placed<SiteId>,
    /// Who takes over, in this order.
    pub standby: Vec<Placed<UnitId>>,
    /// What may happen in it.
    pub access: Placed<Access>,
}

/// What may happen in a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Messages are taken from it and delivered to it.
    Both,
    /// Messages are taken from it alone.
    ProduceOnly,
    /// Messages are delivered to it alone.
    ConsumeOnly,
    /// Neither: it is being built up, or taken down.
    Nothing,
}

impl Access {
    const WORDS: [(&'static str, Self); 4] = [
        ("rw", Self::Both),
        ("produce-only", Self::ProduceOnly),
        ("consume-only", Self::ConsumeOnly),
        ("none", Self::Nothing),
    ];

    /// Whether messages may be taken from its broker.
    pub const fn produces(self) -> bool {
        matches!(self, Self::Both | Self::ProduceOnly)
    }

    /// Whether messages may be delivered to its broker.
    pub const fn consumes(self) -> bool {
        matches!(self, Self::Both | Self::ConsumeOnly)
    }

    /// The word in the document.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Both => "rw",
            Self::ProduceOnly => "produce-only",
            Self::ConsumeOnly => "consume-only",
            Self::Nothing => "none",
        }
    }
}

/// Who starts a takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takeover {
    /// The coordinator, when its conditions hold.
    Automatic,
    /// A person.
    Manual,
}

impl Takeover {
    const WORDS: [(&'static str, Self); 2] =
        [("automatic", Self::Automatic), ("manual", Self::Manual)];
}

/// What a unit does that is cut off from etcd and from one of its stand-ins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolated {
    /// It stops serving its slots.
    Fence,
    /// It goes on, and is never failed over automatically.
    Continue,
}

/// Who decides about a takeover, and when.
#[derive(Debug, Clone, PartialEq)]
pub struct Failover {
    /// To a stand-in in the same city; automatic by default.
    pub within_city: Takeover,
    /// To a stand-in in another city; manual by default.
    pub across_cities: Takeover,
    /// Lease time to live.
    pub detect: Duration,
    /// From doubtful to down.
    pub grace: Duration,
    /// Between two changes of the coordinator's own accord.
    pub hold_down: Duration,
    /// More sites down at once are for a person; where it is stated, with its place.
    pub sites_down_max: u32,
    /// Where `sites_down_max` is stated, else where the topology is.
    pub sites_down_max_place: Option<Place>,
    /// What an isolated unit does.
    pub isolated: Placed<Isolated>,
}

/// What links from one unit, or all, to another, or all, may use.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkPolicy {
    /// `None` for `*`.
    pub from: Option<Placed<UnitId>>,
    /// `None` for `*`.
    pub to: Option<Placed<UnitId>>,
    /// What one gateway may send over it; `None` for `unlimited`.
    pub bytes_per_second: Option<NonZeroU64>,
}

pub(super) fn read(mut fields: Fields, faults: &mut Vec<Fault>) -> Option<Topology> {
    let place = fields.place().clone();
    let space = fields.must("space", faults, |node, faults| {
        fields::name(node, "the space", SpaceId::parse, faults)
    });
    let cities = fields
        .optional("cities")
        .and_then(|node| {
            named(node, "a city", CityId::parse, faults, |name, _, _| {
                Some(name)
            })
        })
        .unwrap_or_default();
    let sites = fields.must("sites", faults, |node, faults| {
        named(node, "a site", SiteId::parse, faults, read_site)
    });
    let units = fields.must("units", faults, |node, faults| {
        named(node, "a unit", UnitId::parse, faults, read_unit)
    });
    let center = fields
        .optional("center")
        .and_then(|node| fields::name(node, "the center", UnitId::parse, faults));
    let failover = match fields.optional("failover") {
        Some(node) => read_failover(node, faults),
        None => None,
    };
    let links = fields.or("links", Vec::new(), faults, |node, faults| {
        let items = fields::list(node, "`links`", faults)?;
        Some(
            items
                .into_iter()
                .filter_map(|item| read_link(item, faults))
                .collect(),
        )
    });
    fields.end(faults);
    let (cities, sites, units) = (cities, sites?, units?);
    let incomplete = cities.incomplete || sites.incomplete || units.incomplete;
    if units.all.is_empty() && !incomplete {
        faults.push(Fault::at(
            &place,
            FaultCode::MissingField,
            "a topology needs at least one unit",
            "add one under `units:`",
        ));
        return None;
    }
    Some(Topology {
        space: space?,
        cities: cities.all,
        sites: sites.all,
        units: units.all,
        center,
        failover: failover.unwrap_or_else(|| Failover::default_at(place)),
        links,
        incomplete,
    })
}

impl Failover {
    fn default_at(place: Place) -> Self {
        Self {
            within_city: Takeover::Automatic,
            across_cities: Takeover::Manual,
            detect: Duration::from_secs(10),
            grace: Duration::from_secs(15),
            hold_down: Duration::from_mins(10),
            sites_down_max: 1,
            sites_down_max_place: None,
            isolated: Placed {
                value: Isolated::Fence,
                place,
            },
        }
    }
}

/// What was read of the entries of a mapping.
struct Named<T> {
    all: Vec<T>,
    /// One couldn't be read.
    incomplete: bool,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            incomplete: false,
        }
    }
}

/// The entries of a mapping from names to mappings, each through a reader. An entry may be null: all defaults.
fn named<N, T>(
    node: Node,
    what: &str,
    parse: impl Fn(&str) -> Result<N, crate::model::NameError>,
    faults: &mut Vec<Fault>,
    read: impl Fn(Placed<N>, &mut Fields, &mut Vec<Fault>) -> Option<T>,
) -> Option<Named<T>> {
    let entries = match node.value {
        Value::Map(entries) => entries,
        other => {
            let what = format!("what lists {what}");
            faults.push(fields::wrong_type(&node.place, &what, &other, "a mapping"));
            return None;
        }
    };
    let mut named = Named::default();
    for (key, value) in entries {
        let Some(name) = fields::name_of(&key, what, &parse, faults) else {
            named.incomplete = true;
            continue;
        };
        let value = match value.value {
            Value::Null => Placed {
                value: Value::Map(Vec::new()),
                place: key.place.clone(),
            },
            _ => value,
        };
        let Some(mut inner) = Fields::of(value, format!("{what} ({})", key.value), faults) else {
            named.incomplete = true;
            continue;
        };
        match read(name, &mut inner, faults) {
            Some(one) => named.all.push(one),
            None => named.incomplete = true,
        }
        inner.end(faults);
    }
    Some(named)
}

fn read_site(name: Placed<SiteId>, fields: &mut Fields, faults: &mut Vec<Fault>) -> Option<Site> {
    let city = fields.must("city", faults, |node, faults| {
        fields::name(node, "the city", CityId::parse, faults)
    });
    Some(Site { name, city: city? })
}

fn read_unit(name: Placed<UnitId>, fields: &mut Fields, faults: &mut Vec<Fault>) -> Option<Unit> {
    let site = fields.must("site", faults, |node, faults| {
        fields::name(node, "the site", SiteId::parse, faults)
    });
    let standby = fields.or("standby", Vec::new(), faults, |node, faults| {
        fields::names(node, "stand-in", UnitId::parse, faults)
    });
    let access = Placed {
        value: Access::Both,
        place: name.place.clone(),
    };
    let access = fields.or("access", access, faults, |node, faults| {
        let place = node.place.clone();
        let value = fields::word(node, "`access`", &Access::WORDS, faults)?;
        Some(Placed { value, place })
    });
    Some(Unit {
        name,
        site: site?,
        standby,
        access,
    })
}

fn read_failover(node: Node, faults: &mut Vec<Fault>) -> Option<Failover> {
    /// More sites than any space has; it only keeps the number small.
    const SITES_MAX: i64 = 1_000;
    let mut fields = Fields::of(node, "`failover`", faults)?;
    let default = Failover::default_at(fields.place().clone());
    let takeover = |name, fields: &mut Fields, default, faults: &mut Vec<Fault>| {
        fields.or(name, default, faults, |node, faults| {
            fields::word(node, &format!("`{name}`"), &Takeover::WORDS, faults)
        })
    };
    let time = |name, fields: &mut Fields, default, faults: &mut Vec<Fault>| {
        fields.or(name, default, faults, |node, faults| {
            fields::duration(&node, &format!("`{name}`"), faults)
        })
    };
    let within_city = takeover("within_city", &mut fields, default.within_city, faults);
    let across_cities = takeover("across_cities", &mut fields, default.across_cities, faults);
    let detect = time("detect", &mut fields, default.detect, faults);
    let grace = time("grace", &mut fields, default.grace, faults);
    let hold_down = time("hold_down", &mut fields, default.hold_down, faults);
    let stated = fields
        .optional("sites_down_max")
        .and_then(|node| fields::whole(node, "`sites_down_max`", (0, SITES_MAX), faults));
    let isolated = fields.or("isolated", default.isolated, faults, |node, faults| {
        let place = node.place.clone();
        let words = [("fence", Isolated::Fence), ("continue", Isolated::Continue)];
        let value = fields::word(node, "`isolated`", &words, faults)?;
        Some(Placed { value, place })
    });
    fields.end(faults);
    Some(Failover {
        within_city,
        across_cities,
        detect,
        grace,
        hold_down,
        sites_down_max: stated
            .as_ref()
            .and_then(|stated| u32::try_from(stated.value).ok())
            .unwrap_or(default.sites_down_max),
        sites_down_max_place: stated.map(|stated| stated.place),
        isolated,
    })
}

fn read_link(node: Node, faults: &mut Vec<Fault>) -> Option<LinkPolicy> {
    let mut fields = Fields::of(node, "a link policy", faults)?;
    let end = |name, fields: &mut Fields, faults: &mut Vec<Fault>| {
        let text = fields.must(name, faults, |node, faults| {
            fields::text(node, &format!("`{name}`"), faults)
        })?;
        if text.value == "*" {
            return Some(None);
        }
        fields::name_of(&text, "a link's end", UnitId::parse, faults).map(Some)
    };
    let from = end("from", &mut fields, faults);
    let to = end("to", &mut fields, faults);
    if let Some(node) = fields.optional("compression")
        && node.value != Value::Text("auto".to_owned())
    {
        faults.push(fields::not_yet(
            &node.place,
            "`compression` of a link",
            "auto",
        ));
    }
    let bytes_per_second = fields
        .optional("bytes_per_second")
        .filter(|node| node.value != Value::Text("unlimited".to_owned()))
        .and_then(|node| read_rate(node, faults));
    fields.end(faults);
    Some(LinkPolicy {
        from: from?,
        to: to?,
        bytes_per_second,
    })
}

/// A size, or a number of bytes.
fn read_rate(node: Node, faults: &mut Vec<Fault>) -> Option<NonZeroU64> {
    const WHAT: &str = "`bytes_per_second`";
    let place = node.place.clone();
    let rate = match node.value {
        Value::Int(_) => {
            let read = fields::whole(node, WHAT, (1, i64::MAX), faults)?;
            u64::try_from(read.value).unwrap_or(0)
        }
        Value::Text(_) => fields::bytes(&node, WHAT, faults)?,
        other => {
            let wanted = "`unlimited`, or a size such as 10MiB";
            faults.push(fields::wrong_type(&place, WHAT, &other, wanted));
            return None;
        }
    };
    let rate = NonZeroU64::new(rate);
    if rate.is_none() {
        faults.push(fields::bad_value(
            &place,
            "a link that carries nothing is none",
            "write a size such as 10MiB, or unlimited",
        ));
    }
    rate
}

impl Topology {
    /// Where `center` messages go: the unit that is named, else the first.
    pub fn center(&self) -> Option<&UnitId> {
        match &self.center {
            Some(center) => Some(&center.value),
            None => self.units.first().map(|unit| &unit.name.value),
        }
    }

    /// The city that a unit is in; none where the unit or its site isn't known.
    pub fn city_of(&self, unit: &UnitId) -> Option<&CityId> {
        let unit = self.units.iter().find(|one| one.name.value == *unit)?;
        let site = self.sites.iter();
        let mut at = site.filter(|site| site.name.value == unit.site.value);
        at.next().map(|site| &site.city.value)
    }
}
