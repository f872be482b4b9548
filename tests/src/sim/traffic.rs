//! Traffic of the hosts behind the nodes.

use std::net::IpAddr;
use std::time::Duration;

use super::packet::{Arrival, Fate, IpPacket, TTL};
use super::{Happening, NodeId, Sim};

/// Index of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowId(usize);

/// Packets of one host to another, at an even pace.
#[derive(Debug)]
pub struct Flow {
    from: NodeId,
    source: IpAddr,
    destination: IpAddr,
    interval: Duration,
    left: u32,
    echo: bool,
    numbers: Vec<u32>,
}

impl Sim {
    /// A host behind `from` sends one packet; gives its number.
    pub fn send(&mut self, from: NodeId, source: IpAddr, destination: IpAddr) -> u32 {
        self.emit(from, source, destination, false)
    }

    /// A host behind `from` sends a packet, and the receiver answers it.
    pub fn ping(&mut self, from: NodeId, source: IpAddr, destination: IpAddr) -> u32 {
        self.emit(from, source, destination, true)
    }

    /// A host behind `from` sends `count` packets, the first one now; the receiver answers each.
    pub fn flow(
        &mut self,
        from: NodeId,
        (source, destination): (IpAddr, IpAddr),
        interval: Duration,
        count: u32,
    ) -> FlowId {
        let flow =
            Flow { from, source, destination, interval, left: count, echo: true, numbers: vec![] };
        self.flows.push(flow);
        let id = FlowId(self.flows.len() - 1);
        self.schedule(self.now, Happening::Flow(id));
        id
    }

    /// A flow sends nothing more.
    pub fn end_flow(&mut self, id: FlowId) {
        self.flows[id.0].left = 0;
    }

    /// What became of a packet.
    pub fn fate(&self, number: u32) -> &Fate {
        &self.fates[number as usize]
    }

    /// What became of every packet, in the order of sending; answers are among them.
    pub fn fates(&self) -> &[Fate] {
        &self.fates
    }

    /// What became of the packets of a flow, without the answers.
    pub fn flow_fates(&self, id: FlowId) -> impl Iterator<Item = &Fate> {
        self.flows[id.0].numbers.iter().map(|&number| self.fate(number))
    }

    pub(super) fn flow_due(&mut self, id: FlowId) {
        let flow = &mut self.flows[id.0];
        if flow.left == 0 {
            return;
        }
        flow.left -= 1;
        let Flow { from, source, destination, interval, left, echo, .. } = *flow;
        if left > 0 {
            self.schedule(self.now + interval, Happening::Flow(id));
        }
        let number = self.emit(from, source, destination, echo);
        self.flows[id.0].numbers.push(number);
    }

    fn emit(&mut self, from: NodeId, source: IpAddr, destination: IpAddr, echo: bool) -> u32 {
        let number = u32::try_from(self.fates.len()).expect("no run has 2³² packets");
        self.fates.push(Fate {
            from,
            source,
            destination,
            sent: self.elapsed(),
            arrival: None,
            dropped: None,
            arrivals: 0,
            copies: 1,
            echo,
        });
        let packet = IpPacket { source, destination, ttl: TTL, number };
        if let Some(live) = &mut self.nodes[from.0].live {
            let actions = live.plane.departure(self.now, packet);
            self.act(from, actions);
            self.settle(from);
        } else {
            self.fates[number as usize].dropped = Some((from, "the gateway is dead"));
        }
        number
    }

    pub(super) fn deliver(&mut self, id: NodeId, packet: &IpPacket) {
        self.check_delivery(id, packet);
        if let Some(live) = &mut self.nodes[id.0].live {
            live.plane.counters.delivered += 1;
        }
        let at = self.elapsed();
        let fate = &mut self.fates[packet.number as usize];
        fate.arrivals += 1;
        let first = fate.arrival.is_none();
        fate.arrival.get_or_insert(Arrival { at, hops: TTL - packet.ttl });
        if first && fate.echo {
            self.emit(id, packet.destination, packet.source, false);
        }
    }

    pub(super) fn dropped(&mut self, id: NodeId, packet: &IpPacket, reason: &'static str) {
        if let Some(live) = &mut self.nodes[id.0].live {
            *live.plane.counters.dropped.entry(reason).or_default() += 1;
        }
        self.fates[packet.number as usize].dropped = Some((id, reason));
        self.trace.dropped(self.now - self.start, id, reason, packet.number);
    }
}
