//! Requests to nf_tables: tables, chains, sets, rules and their expressions.

use std::collections::BTreeMap;
use std::io;

use super::socket::Requests;
use super::wire::{Request, attributes, be64_at, find};

const SUBSYSTEM: u16 = 10 << 8;
const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const DELCHAIN: u16 = SUBSYSTEM | 5;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const DELSET: u16 = SUBSYSTEM | 11;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;
/// Multicast group of what is told of tables (NFNLGRP_NFTABLES).
pub(crate) const GROUP: u32 = 1 << 6;
const INET: u8 = 1;
const LIST_ELEM: u16 = 1;
const EXPR_NAME: u16 = 1;
const EXPR_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const COMMENT: u8 = 0;

/// 32-bit registers; an address of 16 octets takes four.
pub(crate) const R0: u32 = 8;
pub(crate) const R1: u32 = 9;

/// `meta` keys.
pub(crate) const MARK: u32 = 3;
pub(crate) const IIF: u32 = 4;
pub(crate) const OIF: u32 = 5;
pub(crate) const NFPROTO: u32 = 15;
pub(crate) const L4PROTO: u32 = 16;

/// `payload` bases.
pub(crate) const NETWORK: u32 = 1;
pub(crate) const TRANSPORT: u32 = 2;

/// Hooks of the inet family.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hook {
    Input = 1,
    Forward = 2,
    Output = 3,
}

/// `NFT_SET_CONCAT`
pub(crate) const CONCAT: u32 = 0x80;
/// `NFT_SET_INTERVAL | NFT_SET_CONCAT`
pub(crate) const RANGES: u32 = 0x84;
/// `NFT_SET_TIMEOUT | NFT_SET_EVAL | NFT_SET_CONCAT`
pub(crate) const DYNAMIC: u32 = 0xb0;

pub(crate) const DROP: i32 = 0;
pub(crate) const ACCEPT: i32 = 1;
pub(crate) const RETURN: i32 = -5;
const JUMP: i32 = -3;
const GOTO: i32 = -4;

fn request(kind: u16, flags: i32) -> Request {
    Request::new(kind, flags).raw(&[INET, 0, 0, 0])
}

pub(crate) fn new_table(table: &str, comment: &str) -> Request {
    let mut userdata = vec![COMMENT, comment.len() as u8 + 1];
    userdata.extend(comment.as_bytes());
    userdata.push(0);
    request(NEWTABLE, libc::NLM_F_CREATE).put_text(1, table).put(6, &userdata)
}

pub(crate) fn delete_table(table: &str) -> Request {
    request(DELTABLE, 0).put_text(1, table)
}

/// The comment of a table; `None` where there is no such table.
pub(crate) fn table_comment(kernel: &Requests, table: &str) -> io::Result<Option<String>> {
    for message in kernel.dump(request(GETTABLE, libc::NLM_F_DUMP))? {
        let rest = message.get(4..).unwrap_or_default();
        let inet = message.first() == Some(&INET);
        if inet && find(rest, 1).is_some_and(|name| text(name) == table) {
            let userdata = find(rest, 6).and_then(|data| data.get(2..)).unwrap_or_default();
            return Ok(Some(text(userdata)));
        }
    }
    Ok(None)
}

/// What a table lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Rules,
    Elements,
}

/// What a notification says that this table lost.
pub(crate) fn loss(table: &str, kind: u16, payload: &[u8]) -> Option<Loss> {
    let loss = match kind {
        DELTABLE | DELCHAIN | DELRULE | DELSET => Loss::Rules,
        DELSETELEM => Loss::Elements,
        _ => return None,
    };
    // In all of them the first attribute is the table.
    let of = find(payload.get(4..)?, 1)?;
    (payload.first() == Some(&INET) && text(of) == table).then_some(loss)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

/// A chain; `hook` with its priority, or none for one that rules jump to.
pub(crate) fn new_chain(table: &str, chain: &str, hook: Option<(Hook, i32)>) -> Request {
    match hook {
        None => request(NEWCHAIN, libc::NLM_F_CREATE).put_text(1, table).put_text(3, chain),
        Some(hook) => base_chain(table, chain, hook, "filter"),
    }
}

/// A chain of a hook and its priority; behind one of the kind `route` a packet that has another address
/// now gets another way.
pub(crate) fn base_chain(
    table: &str,
    chain: &str,
    (hook, priority): (Hook, i32),
    kind: &str,
) -> Request {
    request(NEWCHAIN, libc::NLM_F_CREATE)
        .put_text(1, table)
        .put_text(3, chain)
        .nest(4, |inside| inside.put_be32(1, hook as u32).put_be32(2, priority as u32))
        .put_be32(5, ACCEPT as u32)
        .put_text(7, kind)
}

/// Takes a chain away with its rules.
pub(crate) fn delete_chain(table: &str, chain: &str) -> Request {
    request(DELCHAIN, 0).put_text(1, table).put_text(3, chain)
}

/// A chain for what comes in by one device.
pub(crate) fn new_ingress(table: &str, chain: &str, device: &str, priority: i32) -> Request {
    const INGRESS: u32 = 5;
    request(NEWCHAIN, libc::NLM_F_CREATE)
        .put_text(1, table)
        .put_text(3, chain)
        .nest(4, |inside| {
            inside.put_be32(1, INGRESS).put_be32(2, priority as u32).put_text(3, device)
        })
        .put_be32(5, ACCEPT as u32)
        .put_text(7, "filter")
}

/// A set: `types` are nft's numbers for its fields, shown by `nft list`; `lens` their octets.
pub(crate) struct NewSet<'a> {
    pub name: &'a str,
    pub flags: u32,
    pub fields: &'a [(u32, u32)],
    /// Each element counts the packets that it matches.
    pub counting: bool,
    /// What its elements stand for; none where they are only there.
    pub data: Option<(u32, u32)>,
    /// Elements at most, and the milliseconds that each stays.
    pub dynamic: Option<(u32, u64)>,
}

impl NewSet<'_> {
    pub(crate) fn request(&self, table: &str) -> Request {
        let kind = self.fields.iter().fold(0, |kind, (field, _)| kind << 6 | field);
        let len = self.fields.iter().map(|(_, len)| len).sum();
        let mut new = request(NEWSET, libc::NLM_F_CREATE)
            .put_text(1, table)
            .put_text(2, self.name)
            .put_be32(3, self.flags)
            .put_be32(4, kind)
            .put_be32(5, len)
            .nest(9, |mut desc| {
                if let Some((size, _)) = self.dynamic {
                    desc = desc.put_be32(1, size);
                }
                if self.fields.len() == 1 {
                    return desc;
                }
                desc.nest(2, |concat| {
                    self.fields.iter().fold(concat, |concat, (_, len)| {
                        concat.nest(LIST_ELEM, |field| field.put_be32(1, *len))
                    })
                })
            })
            // Any number: sets are told apart by their names.
            .put_be32(10, 1);
        if let Some((kind, len)) = self.data {
            new = new.put_be32(6, kind).put_be32(7, len);
        }
        if let Some((_, milliseconds)) = self.dynamic {
            new = new.put(11, &milliseconds.to_be_bytes());
        }
        if self.counting {
            new = new.nest(17, |counter| counter.put_text(EXPR_NAME, "counter"));
        }
        new
    }
}

/// An element: its key, and the last one where it is a range, or what it stands for in a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Element {
    pub key: Vec<u8>,
    pub end: Option<Vec<u8>>,
}

/// What the second value of an element is: the end of a range, or what it stands for.
pub(crate) const KEY_END: u16 = 10;
pub(crate) const DATA: u16 = 2;
/// `NFT_SET_MAP`
pub(crate) const MAP: u32 = 8;

/// Elements that go in one message: its attributes hold 64 KiB.
const ELEMENTS: usize = 400;

fn elements(
    (kind, flags): (u16, i32),
    table: &str,
    (set, end): (&str, u16),
    elements: &[&Element],
) -> Vec<Request> {
    let some = |elements: &[&Element]| {
        request(kind, flags).put_text(1, table).put_text(2, set).nest(3, |list| {
            elements.iter().fold(list, |list, element| {
                list.nest(LIST_ELEM, |inside| {
                    let inside = inside.nest(1, |key| key.put(DATA_VALUE, &element.key));
                    match &element.end {
                        Some(last) => inside.nest(end, |key| key.put(DATA_VALUE, last)),
                        None => inside,
                    }
                })
            })
        })
    };
    elements.chunks(ELEMENTS).map(some).collect()
}

pub(crate) fn add_elements(table: &str, set: (&str, u16), which: &[&Element]) -> Vec<Request> {
    elements((NEWSETELEM, libc::NLM_F_CREATE), table, set, which)
}

pub(crate) fn remove_elements(table: &str, set: (&str, u16), which: &[&Element]) -> Vec<Request> {
    elements((DELSETELEM, 0), table, set, which)
}

/// Packets and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// What a set has, with its counters.
pub(crate) fn read_set(
    kernel: &Requests,
    table: &str,
    set: &str,
) -> io::Result<BTreeMap<Element, Count>> {
    let request = request(GETSETELEM, libc::NLM_F_DUMP).put_text(1, table).put_text(2, set);
    let mut found = BTreeMap::new();
    for message in kernel.dump(request)? {
        let list = message.get(4..).and_then(|rest| find(rest, 3)).unwrap_or_default();
        for (_, element) in attributes(list) {
            let value = |kind| find(element, kind).and_then(|key| find(key, DATA_VALUE));
            let Some(key) = value(1) else { continue };
            let counter = find(element, 7).and_then(|expression| find(expression, EXPR_DATA));
            let number = |kind| {
                counter.and_then(|c| find(c, kind)).and_then(|n| be64_at(n, 0)).unwrap_or_default()
            };
            let count = Count { bytes: number(1), packets: number(2) };
            let end = value(KEY_END).or_else(|| value(DATA)).map(<[u8]>::to_vec);
            found.insert(Element { key: key.to_vec(), end }, count);
        }
    }
    Ok(found)
}

pub(crate) fn rule(
    table: &str,
    chain: &str,
    expressions: impl FnOnce(Request) -> Request,
) -> Request {
    request(NEWRULE, libc::NLM_F_CREATE | libc::NLM_F_APPEND)
        .put_text(1, table)
        .put_text(2, chain)
        .nest(4, expressions)
}

/// The expressions of a rule, in the order in which they are evaluated.
impl Request {
    fn expression(self, name: &str, inside: impl FnOnce(Self) -> Self) -> Self {
        self.nest(LIST_ELEM, |element| element.put_text(EXPR_NAME, name).nest(EXPR_DATA, inside))
    }

    /// Loads what the kernel knows of the packet.
    pub(crate) fn meta(self, key: u32, register: u32) -> Self {
        self.expression("meta", |e| e.put_be32(1, register).put_be32(2, key))
    }

    pub(crate) fn set_mark(self, register: u32) -> Self {
        self.expression("meta", |e| e.put_be32(2, MARK).put_be32(3, register))
    }

    /// Loads octets of a header.
    pub(crate) fn header(self, base: u32, offset: u32, len: u32, register: u32) -> Self {
        self.expression("payload", |e| {
            e.put_be32(1, register).put_be32(2, base).put_be32(3, offset).put_be32(4, len)
        })
    }

    /// Writes octets of the IP header, whose checksum follows.
    pub(crate) fn write_header(self, offset: u32, len: u32, register: u32) -> Self {
        const INET: u32 = 1;
        self.expression("payload", |e| {
            e.put_be32(5, register)
                .put_be32(2, NETWORK)
                .put_be32(3, offset)
                .put_be32(4, len)
                .put_be32(6, INET)
                .put_be32(7, 10)
        })
    }

    pub(crate) fn mask(self, register: u32, mask: &[u8]) -> Self {
        self.expression("bitwise", |e| {
            e.put_be32(1, register)
                .put_be32(2, register)
                .put_be32(3, mask.len() as u32)
                .nest(4, |value| value.put(DATA_VALUE, mask))
                .nest(5, |value| value.put(DATA_VALUE, &vec![0; mask.len()]))
        })
    }

    /// Goes on with the rule where the register has this value.
    pub(crate) fn equal(self, register: u32, value: &[u8]) -> Self {
        self.compare(0, register, value)
    }

    /// Goes on with the rule where the register has another value.
    pub(crate) fn differ(self, register: u32, value: &[u8]) -> Self {
        self.compare(1, register, value)
    }

    fn compare(self, operator: u32, register: u32, value: &[u8]) -> Self {
        self.expression("cmp", |e| {
            let e = e.put_be32(1, register).put_be32(2, operator);
            e.nest(3, |data| data.put(DATA_VALUE, value))
        })
    }

    /// Goes on with the rule where the set has the key, which then counts.
    pub(crate) fn lookup(self, set: &str, register: u32) -> Self {
        self.expression("lookup", |e| e.put_text(1, set).put_be32(2, register))
    }

    /// Goes on with the rule, and with what the key stands for, where the map has it.
    pub(crate) fn translate(self, map: &str, register: u32) -> Self {
        self.expression("lookup", |e| {
            e.put_text(1, map).put_be32(2, register).put_be32(3, register)
        })
    }

    /// Goes on with the rule where the set has room for the key.
    pub(crate) fn remember(self, set: &str, register: u32) -> Self {
        self.expression("dynset", |e| e.put_text(1, set).put_be32(3, 0).put_be32(4, register))
    }

    /// The SPI of the SA that the packet came through; ends the rule where there is none.
    pub(crate) fn inbound_spi(self, register: u32) -> Self {
        self.expression("xfrm", |e| {
            e.put_be32(1, register).put_be32(2, 6).put(3, &[0]).put_be32(4, 0)
        })
    }

    /// One octet: whether the packet goes into an SA.
    pub(crate) fn outbound_sa(self, register: u32) -> Self {
        self.expression("rt", |e| e.put_be32(1, register).put_be32(2, 4))
    }

    pub(crate) fn load(self, register: u32, value: &[u8]) -> Self {
        self.expression("immediate", |e| {
            e.put_be32(1, register).nest(2, |data| data.put(DATA_VALUE, value))
        })
    }

    pub(crate) fn verdict(self, code: i32) -> Self {
        self.expression("immediate", |e| {
            e.put_be32(1, 0).nest(2, |data| data.nest(2, |v| v.put_be32(1, code as u32)))
        })
    }

    pub(crate) fn go_to(self, chain: &str) -> Self {
        self.enter(GOTO, chain)
    }

    /// Goes on with the next rule afterwards.
    pub(crate) fn jump(self, chain: &str) -> Self {
        self.enter(JUMP, chain)
    }

    fn enter(self, code: i32, chain: &str) -> Self {
        self.expression("immediate", |e| {
            e.put_be32(1, 0)
                .nest(2, |data| data.nest(2, |v| v.put_be32(1, code as u32).put_text(2, chain)))
        })
    }

    /// Hands the packet to whoever listens to the group, at once; `len` octets, 0 = all.
    pub(crate) fn log(self, group: u16, prefix: &str, len: u32) -> Self {
        self.expression("log", |e| {
            let e = e.put(1, &group.to_be_bytes()).put_text(2, prefix).put(4, &1u16.to_be_bytes());
            // A length of 0 would be taken as such.
            if len > 0 { e.put_be32(3, len) } else { e }
        })
    }

    pub(crate) fn counter(self) -> Self {
        self.expression("counter", |e| e)
    }

    /// Goes on with the rule where more packets come than so many in a second, and so many at once.
    pub(crate) fn more_than(self, rate: u64, burst: u32) -> Self {
        self.expression("limit", |e| {
            let rate = e.put(1, &rate.to_be_bytes()).put(2, &1u64.to_be_bytes());
            // Packets, and those over the limit.
            rate.put_be32(3, burst).put_be32(4, 0).put_be32(5, 1)
        })
    }

    /// No larger segments than the way of this packet carries.
    pub(crate) fn clamp_segment_size(self) -> Self {
        self.expression("rt", |e| e.put_be32(1, R0).put_be32(2, 3))
            .expression("byteorder", |e| {
                e.put_be32(1, R0).put_be32(2, R0).put_be32(3, 1).put_be32(4, 2).put_be32(5, 2)
            })
            .expression("exthdr", |e| {
                // TCP option 2, its value at offset 2, 2 octets.
                e.put(2, &[2]).put_be32(3, 2).put_be32(4, 2).put_be32(6, 1).put_be32(7, R0)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::messages;
    use super::*;

    #[test]
    fn only_what_our_table_lost_is_a_loss() {
        let mut request = delete_table("nhrpd-dmvpn0");
        let message = messages(request.finish(1)).next().unwrap();
        let of = |table| loss(table, message.kind, message.payload);
        assert_eq!(of("nhrpd-dmvpn0"), Some(Loss::Rules));
        assert_eq!(of("nhrpd-dmvpn1"), None);
        assert_eq!(loss("nhrpd-dmvpn0", NEWTABLE, message.payload), None);
        assert_eq!(loss("nhrpd-dmvpn0", DELSETELEM, message.payload), Some(Loss::Elements));
    }
}
