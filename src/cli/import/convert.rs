//! From upstreams, policies and shovels to sources and rules.
//!
//! Owns what maps, what maps differently and what can't, line by line. Never repeats a password: of a URI, host and port
//! are read, and nothing else goes on.

use super::definitions::{Definitions, Exchange, Federated, Parameter, Policy, text};
use crate::gateway::config::BrokerUri;
use crate::model::UnitId;
use crate::rules::Regex;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// How something of the export comes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fate {
    Maps,
    /// It does something else than before, which the text says.
    Differs,
    /// It isn't in the folder.
    Cannot,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Maps => "maps",
            Self::Differs => "differs",
            Self::Cannot => "can't",
        })
    }
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) fate: Fate,
    /// `upstream bj`, `shovel audit`, …
    pub(super) what: String,
    pub(super) text: String,
}

/// Files by name, and the report.
#[derive(Debug, Default)]
pub(super) struct Converted {
    pub(super) files: BTreeMap<String, String>,
    pub(super) report: Vec<Line>,
}

/// What the documents are to be called.
pub(super) struct Setting<'a> {
    pub(super) space: &'a str,
    /// The exporting broker's own unit.
    pub(super) unit: &'a str,
    pub(super) peers: &'a [Peer],
}

/// A broker whose unit has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) unit: UnitId,
    /// `host` or `host:port`, as URIs have it.
    pub(super) address: String,
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (unit, address) = text
            .split_once('=')
            .filter(|(_, address)| !address.is_empty())
            .ok_or("write it like bj-1=rabbit.bj.example.com, or with :PORT")?;
        let unit = UnitId::parse(unit).map_err(|error| format!("{unit:?}: {error}"))?;
        let address = address.to_owned();
        Ok(Self { unit, address })
    }
}

/// A broker: this one, or one at an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    unit: String,
    vhost: String,
}

struct Converter<'a> {
    definitions: &'a Definitions,
    setting: Setting<'a>,
    /// Unit by `host:port`.
    units: BTreeMap<String, String>,
    names: BTreeSet<String>,
    sources: String,
    report: Vec<Line>,
}

pub(super) fn convert(definitions: &Definitions, setting: Setting<'_>) -> Converted {
    let mut converter = Converter {
        definitions,
        setting,
        units: BTreeMap::new(),
        names: BTreeSet::new(),
        sources: String::new(),
        report: Vec::new(),
    };
    converter.upstreams();
    converter.federated_exchanges();
    converter.federated_queues();
    converter.shovels();
    converter.finish()
}

impl<'a> Converter<'a> {
    fn say(&mut self, fate: Fate, what: impl Into<String>, text: impl Into<String>) {
        self.report.push(Line {
            fate,
            what: what.into(),
            text: text.into(),
        });
    }

    fn of(&self, component: &str) -> Vec<&'a Parameter> {
        let all = self.definitions.parameters.iter();
        all.filter(|one| one.component == component).collect()
    }

    /// What an upstream says besides its address.
    fn upstreams(&mut self) {
        for upstream in self.of("federation-upstream") {
            let what = format!("upstream {}", upstream.name);
            match self.end(text(&upstream.value, "uri"), &upstream.vhost) {
                Ok(end) => self.say(
                    Fate::Maps,
                    &what,
                    format!("its broker is unit {}", end.unit),
                ),
                Err(why) => self.say(Fate::Cannot, &what, why),
            }
            self.settings(&what, &upstream.value);
        }
    }

    /// Fields that work otherwise here, for upstreams and shovels alike.
    fn settings(&mut self, what: &str, value: &Value) {
        let texts = [
            (
                "expires",
                "its queue doesn't expire: what a lane holds stays until it is carried",
            ),
            (
                "message-ttl",
                "messages don't expire on their way but by their own expiration; set a policy on the lane queue if that is meant",
            ),
            (
                "max-hops",
                "loops end by the units that a message has visited, and by hops_max rounds",
            ),
            (
                "trust-user-id",
                "the publisher's user-id travels in x-set-user-id",
            ),
            (
                "src-delete-after",
                "a lane doesn't end: `setgate sources retire` ends it",
            ),
            ("add-forward-headers", "the way is in the x-set-* headers"),
            (
                "dest-add-forward-headers",
                "the way is in the x-set-* headers",
            ),
            ("dest-add-timestamp-header", "there is no timestamp header"),
            (
                "dest-publish-properties",
                "properties arrive as they left; let the publisher set them",
            ),
        ];
        for (field, says) in texts {
            let absent = match value.get(field) {
                None | Some(Value::Null | Value::Bool(false)) => true,
                Some(one) => field == "src-delete-after" && *one == json!("never"),
            };
            if !absent {
                self.say(Fate::Differs, what, format!("{field}: {says}"));
            }
        }
        if let Some(mode) = text(value, "ack-mode").filter(|mode| *mode != "on-confirm") {
            self.say(
                Fate::Differs,
                what,
                format!("ack-mode {mode}: a message is acknowledged when its target has confirmed it, always"),
            );
        }
    }

    /// For each exchange the policy of highest priority, as the broker has it.
    fn federated_exchanges(&mut self) {
        let definitions = self.definitions;
        let mut used = BTreeSet::new();
        for exchange in &definitions.exchanges {
            let policy = self.policy_of(&exchange.vhost, &exchange.name, "exchanges");
            let Some((policy, federated)) = policy.and_then(|one| Some((one, one.federates()?)))
            else {
                continue;
            };
            used.insert((&policy.vhost, &policy.name));
            let what = format!("exchange {}", exchange.name);
            match self.named(&policy.vhost, federated) {
                Ok(upstreams) => {
                    for (upstream, overrides) in upstreams {
                        self.federate(&what, exchange, upstream, overrides);
                    }
                }
                Err(why) => self.say(Fate::Cannot, format!("policy {}", policy.name), why),
            }
        }
        for policy in &definitions.policies {
            let unused = policy.federates().is_some()
                && policy.applies_to("exchanges")
                && !used.contains(&(&policy.vhost, &policy.name));
            if unused {
                self.say(
                    Fate::Cannot,
                    format!("policy {}", policy.name),
                    "no exchange of the export is federated by it; add a source for each that it is meant for",
                );
            }
        }
    }

    fn federate(
        &mut self,
        what: &str,
        exchange: &Exchange,
        upstream: &Parameter,
        overrides: &Value,
    ) {
        let end = match self.end(text(&upstream.value, "uri"), &upstream.vhost) {
            Ok(end) => end,
            Err(why) => return self.say(Fate::Cannot, what, why),
        };
        if end.vhost != exchange.vhost {
            return self.say(
                Fate::Cannot,
                what,
                format!(
                    "it comes from vhost {} into vhost {}, and a source is of one vhost at both ends",
                    end.vhost, exchange.vhost
                ),
            );
        }
        let taken = text(overrides, "exchange").or_else(|| text(&upstream.value, "exchange"));
        let taken = taken.unwrap_or(&exchange.name).to_owned();
        let bindings = self.bindings(exchange);
        if bindings.is_empty() {
            return self.say(
                Fate::Cannot,
                what,
                "nothing is bound to it, so federation carries nothing either; add a source with the bindings that are meant",
            );
        }
        let name = self.name(&format!("{}-from-{}", exchange.name, end.unit));
        let take = format!(
            "{{exchange: {}, bindings: [{}]}}",
            json!(taken),
            bindings.join(", ")
        );
        let to = self.setting.unit.to_owned();
        let deliver = format!("{{exchange: {}}}", json!(exchange.name));
        self.source(&name, &end, &take, &deliver, &format!("{{units: [{to}]}}"));
        self.say(
            Fate::Maps,
            what,
            format!("source {name}: taken in {}, delivered in {to}; the bindings are those of now, a later one is to be added", end.unit),
        );
    }

    /// Of the exchange in this broker, which federation hands on: each once.
    fn bindings(&self, exchange: &Exchange) -> Vec<String> {
        let of = self.definitions.bindings.iter();
        let of = of.filter(|one| one.vhost == exchange.vhost && one.source == exchange.name);
        let texts: BTreeSet<String> = of
            .map(|binding| match exchange.kind.as_str() {
                "fanout" => "{routing_key: \"\"}".to_owned(),
                "headers" => format!("{{arguments: {}}}", json!(binding.arguments)),
                _ => format!("{{routing_key: {}}}", json!(binding.routing_key)),
            })
            .collect();
        texts.into_iter().collect()
    }

    fn federated_queues(&mut self) {
        for queue in &self.definitions.queues {
            let policy = self.policy_of(&queue.vhost, &queue.name, "queues");
            if policy.is_some_and(|policy| policy.federates().is_some()) {
                self.say(
                    Fate::Cannot,
                    format!("queue {}", queue.name),
                    "a federated queue moves messages to where consumers are; setgate moves them to their owner: write a source that takes the queue, and a rule",
                );
            }
        }
    }

    fn shovels(&mut self) {
        for shovel in self.of("shovel") {
            let what = format!("shovel {}", shovel.name);
            match self.shovel(shovel) {
                Ok(text) => {
                    self.say(Fate::Maps, &what, text);
                    self.settings(&what, &shovel.value);
                }
                Err(why) => self.say(Fate::Cannot, &what, why),
            }
        }
    }

    fn shovel(&mut self, shovel: &Parameter) -> Result<String, String> {
        let value = &shovel.value;
        for side in ["src-protocol", "dest-protocol"] {
            if text(value, side).is_some_and(|protocol| protocol != "amqp091") {
                return Err(format!("{side} isn't amqp091, and setgate speaks no other"));
            }
        }
        let from = self.end(text(value, "src-uri"), &shovel.vhost)?;
        let to = self.end(text(value, "dest-uri"), &shovel.vhost)?;
        if from.vhost != to.vhost {
            return Err(format!(
                "it goes from vhost {} into vhost {}, and a source is of one vhost at both ends",
                from.vhost, to.vhost
            ));
        }
        let take = match (text(value, "src-queue"), text(value, "src-exchange")) {
            (Some(queue), _) => format!("{{queue: {}}}", json!(queue)),
            (None, Some(exchange)) => format!(
                "{{exchange: {}, bindings: [{{routing_key: {}}}]}}",
                json!(exchange),
                json!(text(value, "src-exchange-key").unwrap_or_default())
            ),
            (None, None) => return Err("it has neither src-queue nor src-exchange".to_owned()),
        };
        let key = |key: &str| format!(", routing_key: {}", json!(key));
        let deliver = match (text(value, "dest-queue"), text(value, "dest-exchange")) {
            (Some(queue), _) => format!("{{exchange: \"\"{}}}", key(queue)),
            (None, Some(exchange)) => {
                let own = text(value, "dest-exchange-key")
                    .map(key)
                    .unwrap_or_default();
                format!("{{exchange: {}{own}}}", json!(exchange))
            }
            (None, None) => {
                return Err("it publishes to the exchange that each message came from, and a rule names one; write a source for each".to_owned());
            }
        };
        let name = self.name(&shovel.name);
        let route = if from.unit == to.unit {
            "local".to_owned()
        } else {
            format!("{{units: [{}]}}", to.unit)
        };
        self.source(&name, &from, &take, &deliver, &route);
        Ok(format!(
            "source {name}: taken in {}, delivered in {}",
            from.unit, to.unit
        ))
    }

    fn source(&mut self, name: &str, from: &End, take: &str, deliver: &str, route: &str) {
        let joint = if self.sources.is_empty() { "" } else { "---\n" };
        let vhost = match from.vhost.as_str() {
            "/" => String::new(),
            other => format!("vhost: {}\n", json!(other)),
        };
        let _ = write!(
            self.sources,
            "{joint}kind: source\nname: {name}\nunits: [{}]\n{vhost}take: {take}\ndeliver: {deliver}\n\
             ---\nkind: rule\nname: {name}\nsource: {name}\norder: 100\nroute: {route}\n",
            from.unit
        );
    }

    /// The policy of highest priority that is about it.
    fn policy_of(&self, vhost: &str, name: &str, what: &str) -> Option<&'a Policy> {
        let policies = self.definitions.policies.iter();
        let about = policies.filter(|policy| {
            policy.vhost == vhost
                && policy.applies_to(what)
                && Regex::parse(&policy.pattern).is_ok_and(|pattern| pattern.is_in(name.as_bytes()))
        });
        about.max_by_key(|policy| policy.priority)
    }

    /// The upstreams that a policy means, each with what its set says otherwise.
    fn named(
        &self,
        vhost: &str,
        federated: Federated<'_>,
    ) -> Result<Vec<(&'a Parameter, &'a Value)>, String> {
        static NOTHING: Value = Value::Null;
        let upstreams = self.of("federation-upstream");
        let of_vhost: Vec<_> = upstreams
            .into_iter()
            .filter(|one| one.vhost == vhost)
            .collect();
        let find = |name: &str| {
            let found = of_vhost.iter().find(|one| one.name == name);
            found
                .copied()
                .ok_or_else(|| format!("there is no upstream {name}"))
        };
        match federated {
            Federated::Upstream(name) => Ok(vec![(find(name)?, &NOTHING)]),
            Federated::Set("all") => Ok(of_vhost.iter().map(|one| (*one, &NOTHING)).collect()),
            Federated::Set(name) => {
                let sets = self.of("federation-upstream-set");
                let set = sets
                    .iter()
                    .find(|one| one.vhost == vhost && one.name == name);
                let set = set.ok_or_else(|| format!("there is no upstream set {name}"))?;
                let members = set.value.as_array().map_or(&[][..], Vec::as_slice);
                let member =
                    |one: &'a Value| Ok((find(text(one, "upstream").unwrap_or_default())?, one));
                members.iter().map(member).collect()
            }
        }
    }

    /// The unit and the vhost that a URI leads to. Without a host it is this broker.
    fn end(&mut self, uri: Option<&str>, vhost: &str) -> Result<End, String> {
        let uri = uri.ok_or("it has no URI")?;
        let (rest, _) = uri.split_once('?').unwrap_or((uri, ""));
        let (_, after) = rest.split_once("://").ok_or("its URI has no scheme")?;
        let (authority, path) = after
            .split_once('/')
            .map_or((after, None), |(a, p)| (a, Some(p)));
        if authority.is_empty() {
            let vhost = match path {
                None | Some("") => vhost.to_owned(),
                Some(_) => BrokerUri::parse(&rest.replacen("://", "://localhost", 1))?
                    .vhost()
                    .to_owned(),
            };
            return Ok(End {
                unit: self.setting.unit.to_owned(),
                vhost,
            });
        }
        let whole = match path {
            None | Some("") => format!("{}/%2f", rest.trim_end_matches('/')),
            Some(_) => rest.to_owned(),
        };
        let parsed = BrokerUri::parse(&whole)?;
        let vhost = match path {
            None | Some("") => vhost.to_owned(),
            Some(_) => parsed.vhost().to_owned(),
        };
        let address = parsed.authority().as_str().to_owned();
        if let Some(unit) = self.units.get(&address) {
            return Ok(End {
                unit: unit.clone(),
                vhost,
            });
        }
        let short = address
            .strip_suffix(":5672")
            .or_else(|| address.strip_suffix(":5671"))
            .unwrap_or(&address);
        let mut peers = self.setting.peers.iter();
        let unit = match peers.find(|peer| peer.address == short || peer.address == address) {
            Some(peer) => peer.unit.to_string(),
            None => self.name(short),
        };
        self.units.insert(address, unit.clone());
        Ok(End { unit, vhost })
    }

    /// A name like this one that nothing else has.
    fn name(&mut self, like: &str) -> String {
        let plain: String = like
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '_' {
                    c
                } else {
                    '-'
                }
            })
            .take(48)
            .collect();
        let plain = plain.trim_matches('-');
        let plain = if plain.is_empty() { "unnamed" } else { plain };
        let mut name = plain.to_owned();
        let mut number = 1;
        let peers = self.setting.peers;
        let taken = |name: &str| peers.iter().any(|peer| peer.unit.as_str() == name);
        while name == self.setting.unit || taken(&name) || !self.names.insert(name.clone()) {
            number += 1;
            name = format!("{plain}-{number}");
        }
        name
    }

    fn finish(self) -> Converted {
        let Setting { space, unit, .. } = self.setting;
        let mut units = vec![unit];
        for name in self.units.values() {
            // Several addresses may be the nodes of one cluster.
            if !units.contains(&name.as_str()) {
                units.push(name);
            }
        }
        let mut topology = format!(
            "# Units are the brokers that the export named. Put them into their cities, and say who stands by for whom.\n\
             kind: topology\nspace: {space}\ncities: {{unknown: {{}}}}\nsites:\n"
        );
        for unit in &units {
            let _ = writeln!(topology, "  {unit}: {{city: unknown}}");
        }
        topology.push_str("units:\n");
        for unit in &units {
            let address = self.units.iter().find(|(_, name)| name.as_str() == *unit);
            let comment =
                address.map_or("the broker of the export", |(address, _)| address.as_str());
            let _ = writeln!(topology, "  {unit}: {{site: {unit}}}      # {comment}");
        }
        let placement = format!(
            "# Nothing imported has an owner by its key. When something does: give the slots to their units before the space is made.\n\
             kind: placement\nslots: 10000\nranges:\n  - {{slots: 0-9999, unit: {unit}}}\n"
        );
        let mut files = BTreeMap::from([
            ("topology.yaml".to_owned(), topology),
            ("placement.yaml".to_owned(), placement),
        ]);
        if !self.sources.is_empty() {
            files.insert("imported.yaml".to_owned(), self.sources);
        }
        Converted {
            files,
            report: self.report,
        }
    }
}
