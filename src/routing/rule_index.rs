//! Which rules of a source may be about a routing key, without looking at all of them.
//!
//! Owns a trie of the patterns' words up to their first `#`, where a pattern takes whatever follows. What it finds is a
//! superset, in ascending order; each rule's own condition decides. Finding allocates nothing.

use super::source::CompiledRule;
use crate::model::Message;
use crate::rules::{TopicPattern, Words};
use std::collections::HashMap;
use xxhash_rust::xxh3::Xxh3DefaultBuilder;

/// Rules whose patterns fit one routing key. With more, all rules are looked at.
const FOUND_MAX: usize = 64;

/// See the file's head. Rules are named by their place in ascending order.
#[derive(Debug, Clone, Default)]
pub(super) struct RuleIndex {
    nodes: Vec<Node>,
    /// Those without a pattern.
    anywhere: Vec<u32>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    words: HashMap<Box<[u8]>, u32, Xxh3DefaultBuilder>,
    star: Option<u32>,
    /// Patterns that end here.
    ends: Vec<u32>,
    /// Patterns that have a `#` here.
    open: Vec<u32>,
}

/// What was found, as long as there is room.
struct Found {
    rules: [u32; FOUND_MAX],
    count: usize,
    overflows: bool,
}

impl Found {
    fn add(&mut self, rules: &[u32]) {
        for rule in rules {
            match self.rules.get_mut(self.count) {
                Some(place) => *place = *rule,
                None => return self.overflows = true,
            }
            self.count += 1;
        }
    }
}

impl RuleIndex {
    /// Of these rules, in their order.
    pub(super) fn of(rules: &[CompiledRule]) -> Self {
        let mut index = Self {
            nodes: vec![Node::default()],
            anywhere: Vec::new(),
        };
        for (number, rule) in (0..).zip(rules) {
            match &rule.when.routing_key {
                None => index.anywhere.push(number),
                Some(pattern) => index.add(pattern, number),
            }
        }
        index
    }

    fn add(&mut self, pattern: &TopicPattern, rule: u32) {
        let mut at = 0;
        for word in Words::of(pattern.as_str().as_bytes()) {
            if word == b"#" {
                return self.nodes[at].open.push(rule);
            }
            let next = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
            let node = &mut self.nodes[at];
            let child = if word == b"*" {
                *node.star.get_or_insert(next)
            } else {
                *node.words.entry(word.into()).or_insert(next)
            };
            if child == next {
                self.nodes.push(Node::default());
            }
            at = child as usize;
        }
        self.nodes[at].ends.push(rule);
    }

    /// The first rule that the message meets.
    pub(super) fn first<'a>(
        &self,
        rules: &'a [CompiledRule],
        message: &Message,
    ) -> Option<&'a CompiledRule> {
        let meets = |rule: &&CompiledRule| rule.when.mismatch(message).is_none();
        let mut found = Found {
            rules: [0; FOUND_MAX],
            count: 0,
            overflows: false,
        };
        self.walk(0, Words::of(&message.address.routing_key), &mut found);
        if found.overflows {
            return rules.iter().find(meets);
        }
        let by_pattern = &mut found.rules[..found.count];
        by_pattern.sort_unstable();
        let (mut by_pattern, mut anywhere) = (&*by_pattern, self.anywhere.as_slice());
        loop {
            let next = match (by_pattern.split_first(), anywhere.split_first()) {
                (Some((one, rest)), other) if other.is_none_or(|(other, _)| one < other) => {
                    by_pattern = rest;
                    *one
                }
                (_, Some((one, rest))) => {
                    anywhere = rest;
                    *one
                }
                (Some(_) | None, None) => return None,
            };
            let rule = rules.get(next as usize);
            if let Some(rule) = rule.filter(meets) {
                return Some(rule);
            }
        }
    }

    fn walk(&self, at: u32, mut rest: Words<'_>, found: &mut Found) {
        let Some(node) = self.nodes.get(at as usize) else {
            return;
        };
        found.add(&node.open);
        let Some(word) = rest.next() else {
            return found.add(&node.ends);
        };
        if let Some(child) = node.words.get(word) {
            self.walk(*child, rest.clone(), found);
        }
        if let Some(child) = node.star {
            self.walk(child, rest, found);
        }
    }
}
