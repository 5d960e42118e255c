//! Each fault that the validator names, by one edit of a good document.

use super::*;

/// One edit of a good document, and the faults that it makes, by line.
fn edited(kind: &str, from: &str, to: &str) -> Vec<(FaultCode, u32)> {
    let text = match kind {
        "topology" => TOPOLOGY,
        "placement" => PLACEMENT,
        "source" => SOURCE,
        _ => RULE,
    };
    assert!(text.contains(from), "{from:?} isn't in the {kind}");
    faults(kind, text.replace(from, to))
}

#[test]
fn every_fault_of_the_list_is_named_with_its_line() {
    use FaultCode as C;
    let cases: &[(&str, &str, &str, C, u32)] = &[
        ("placement", "60-99", "61-99", C::RangeGap, 4),
        ("placement", "0-59", "1-59", C::RangeGap, 4),
        ("placement", "60-99", "60-98", C::RangeGap, 4),
        ("placement", "60-99", "59-99", C::RangeOverlap, 5),
        ("placement", "60-99", "60-100", C::RangeBounds, 5),
        ("placement", "60-99", "99-60", C::RangeBounds, 5),
        ("placement", "60-99", "\"sixty\"", C::BadValue, 5),
        ("placement", "unit: bj-1", "unit: gz-1", C::UnknownUnit, 5),
        (
            "placement",
            "ranges:",
            "pins: [{key: \"1\", unit: sh-1}]\nranges:",
            C::NotYet,
            3,
        ),
        ("placement", "slots: 100", "slots: 0", C::BadValue, 2),
        ("topology", "site: bj-c", "site: bj-d", C::UnknownSite, 9),
        (
            "topology",
            "{city: beijing}",
            "{city: canton}",
            C::UnknownCity,
            6,
        ),
        (
            "topology",
            "standby: [bj-1]",
            "standby: [gz-1]",
            C::UnknownUnit,
            8,
        ),
        (
            "topology",
            "standby: [bj-1]",
            "standby: [sh-1]",
            C::OwnStandby,
            8,
        ),
        (
            "topology",
            "standby: [bj-1]",
            "standby: [bj-1, bj-1]",
            C::RepeatedUnit,
            8,
        ),
        (
            "topology",
            "space: trade",
            "space: trade\ncenter: gz-1",
            C::UnknownUnit,
            3,
        ),
        (
            "topology",
            "space: trade",
            "space: trade\nversion: 2",
            C::UnknownVersion,
            3,
        ),
        (
            "topology",
            "space: trade",
            "space: [trade]",
            C::WrongType,
            2,
        ),
        ("topology", "space: trade\n", "", C::MissingField, 1),
        ("topology", "sh-1:", "\"sh 1\":", C::BadName, 8),
        (
            "topology",
            "bj-1: {site: bj-c}",
            "bj-1: {site: bj-c, access: ro}",
            C::BadValue,
            9,
        ),
        (
            "topology",
            "bj-1: {site: bj-c}",
            "bj-1: {site: bj-c, access: produce-only}",
            C::Access,
            5,
        ),
        (
            "topology",
            "kind: topology",
            "failover: {sites_down_max: 2}\nkind: topology",
            C::SitesDownMax,
            1,
        ),
        (
            "topology",
            "kind: topology",
            "failover: {isolated: continue}\nkind: topology",
            C::IsolatedContinue,
            1,
        ),
        (
            "topology",
            "kind: topology",
            "failover: {detect: 10}\nkind: topology",
            C::BadValue,
            1,
        ),
        (
            "topology",
            "kind: topology",
            "links: [{from: \"*\", to: gz-1}]\nkind: topology",
            C::UnknownUnit,
            1,
        ),
        ("source", "name: orders", "name: order's", C::BadName, 2),
        (
            "source",
            "deliver: {exchange: orders.local}\n",
            "",
            C::NoDeliver,
            5,
        ),
        ("source", "orders.local", "orders", C::SelfDelivery, 4),
        (
            "source",
            "\nkey:",
            "\nunits: [gz-1]\nkey:",
            C::UnknownUnit,
            5,
        ),
        ("source", "\nkey:", "\npartitions: 4\nkey:", C::NotYet, 5),
        (
            "source",
            "\nkey:",
            "\nreturns: {exchange: x}\nkey:",
            C::NotYet,
            5,
        ),
        (
            "source",
            "\nkey:",
            "\nmessages_per_second: 100\nkey:",
            C::NotYet,
            5,
        ),
        ("source", "{header: uid}", "{json: user/id}", C::BadValue, 5),
        ("source", "{header: uid}", "{json: /user~/id}", C::BadValue, 5),
        (
            "source",
            "{header: uid}",
            "{header: uid, routing_key: whole}",
            C::BadValue,
            5,
        ),
        (
            "source",
            "{header: uid}",
            "{routing_key_word: 0}",
            C::BadValue,
            5,
        ),
        (
            "source",
            "\nkey: {",
            "\nkey: {map: {last_digits: 0}, ",
            C::BadValue,
            5,
        ),
        ("source", "\nkey: {", "\nkey: {map: md5, ", C::BadValue, 5),
        ("source", "{exchange: orders, ", "{", C::MissingField, 3),
        (
            "source",
            "{exchange: orders, ",
            "{queue: q, ",
            C::BadValue,
            3,
        ),
        (
            "rule",
            "source: orders",
            "source: order",
            C::UnknownSource,
            3,
        ),
        ("rule", "route: owner", "route: nowhere", C::BadValue, 5),
        (
            "rule",
            "route: owner",
            "route: {units: [gz-1]}",
            C::UnknownUnit,
            5,
        ),
        ("rule", "route: owner", "routes: owner", C::MissingField, 1),
        (
            "rule",
            "route: owner",
            "route: owner\nwhen: {routing_key: \"a.b*\"}",
            C::BadPattern,
            6,
        ),
        (
            "rule",
            "route: owner",
            "route: owner\nwhen: {headers: {x: {matches: \"(\"}}}",
            C::BadRegex,
            6,
        ),
        (
            "rule",
            "route: owner",
            "route: owner\nwhen: {headers: {x: {matches: \"(a{900}){900}\"}}}",
            C::BadRegex,
            6,
        ),
        (
            "rule",
            "route: owner",
            "route: owner\ngray: {percent: 5}",
            C::NotYet,
            6,
        ),
        (
            "rule",
            "route: owner",
            "route: owner\nowner_down: hold",
            C::NotYet,
            6,
        ),
        (
            "rule",
            "route: owner",
            "route: owner\nowner_absent: {wait: 60s, then: park}",
            C::NotYet,
            6,
        ),
        (
            "rule",
            "route: owner",
            "route: owner\nin_doubt: park",
            C::NotYet,
            6,
        ),
        (
            "rule",
            "route: owner",
            "route: owner\npromise: rapid",
            C::NotYet,
            6,
        ),
        (
            "rule",
            "route: owner",
            "route: owner\nreceipt: true",
            C::NotYet,
            6,
        ),
        (
            "rule",
            "route: owner",
            "route: owner\ncopies: {now: [sh-1]}",
            C::NotYet,
            6,
        ),
        (
            "rule",
            "route: owner",
            "route: owner\nmax_lag: {age: 30s, then: alert}",
            C::NotYet,
            6,
        ),
        ("rule", "order: 100", "order: 1e3", C::WrongType, 4),
        ("rule", "kind: rule", "kind: rules", C::UnknownKind, 1),
        (
            "rule",
            "name: by-user",
            "name: by-user\nname: again",
            C::RepeatedField,
            3,
        ),
        ("rule", "order: 100", "\torder: 100", C::Yaml, 4),
        ("rule", "order: 100", "order: [100", C::Yaml, 5),
    ];
    for (kind, from, to, code, line) in cases {
        let found = edited(kind, from, to);
        // A misspelt field is missing and unknown at once; everything else is one fault.
        assert!(found.contains(&(*code, *line)), "{to:?} gave {found:?}");
        let most = if *to == "routes: owner" { 2 } else { 1 };
        assert!(found.len() <= most, "{to:?} gave {found:?}");
    }
}
