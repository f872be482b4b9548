//! What our rules log (nfnetlink_log); what others do to them comes the same way.

use std::io;

use super::nft;
use super::socket::Listener;
use super::wire::{Request, find, u32_at};

const SUBSYSTEM: u16 = 4 << 8;
const PACKET: u16 = SUBSYSTEM;
const CONFIG: u16 = SUBSYSTEM | 1;
const CFG_CMD: u16 = 1;
const CFG_MODE: u16 = 2;
const CMD_BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const PAYLOAD: u16 = 9;
const PREFIX: u16 = 10;
/// Groups that are tried, from one that depends on the interface.
const TRIES: u16 = 64;
const FIRST: u16 = 0xb000;

/// Listens to a group that nobody else listens to.
pub(crate) fn listen(seed: u32) -> io::Result<(Listener, u16)> {
    let listener = Listener::open(libc::NETLINK_NETFILTER, nft::GROUP)?;
    for number in 0..TRIES {
        let group = FIRST + (seed as u16 + number) % 0x1000;
        match ask(&listener, group, |request| request.put(CFG_CMD, &[CMD_BIND])) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => return Err(error),
            Ok(()) => {
                // Up to 64 KiB of each packet.
                let mode = [0, 0, 0xff, 0xff, COPY_PACKET, 0];
                ask(&listener, group, |request| request.put(CFG_MODE, &mode))?;
                return Ok((listener, group));
            }
        }
    }
    Err(io::Error::other(format!("NFLOG groups {FIRST} and further are all taken")))
}

fn ask(
    listener: &Listener,
    group: u16,
    command: impl FnOnce(Request) -> Request,
) -> io::Result<()> {
    let [high, low] = group.to_be_bytes();
    let request = Request::new(CONFIG, libc::NLM_F_ACK).raw(&[0, 0, high, low]);
    listener.tell(command(request))?;
    let answer = listener.wait(|message| {
        (message.kind == libc::NLMSG_ERROR as u16)
            .then(|| u32_at(message.payload, 0).unwrap_or_default() as i32)
    })?;
    if answer == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-answer)) }
}

/// The rule's prefix, and the packet from its IP header on.
pub(crate) fn packet(kind: u16, payload: &[u8]) -> Option<(&str, &[u8])> {
    if kind != PACKET {
        return None;
    }
    let rest = payload.get(4..)?;
    let prefix = find(rest, PREFIX)?;
    let prefix = std::str::from_utf8(prefix.strip_suffix(&[0]).unwrap_or(prefix)).ok()?;
    Some((prefix, find(rest, PAYLOAD)?))
}
