//! Recording what passes on a link.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessageOwned, LinkAddr, MsgFlags, recvmsg, setsockopt,
    sockopt::{RcvBufForce, ReceiveTimestampns, RxqOvfl},
};
use pcap_file::pcap::{PcapHeader, PcapReader};
use pcap_file::{DataLink, Endianness, TsResolution};
use socket2::{Domain, Protocol, Socket, Type};

use crate::Error;
use crate::process::cannot_start;

/// A recording under way. Dropping it ends it.
pub struct Capture {
    recorder: Child,
    stderr: BufReader<ChildStderr>,
    file: PathBuf,
}

/// A finished recording.
#[derive(Debug, Clone, Default)]
pub struct Captured {
    /// In order of arrival.
    pub packets: Vec<Recorded>,
    /// Packets that came too fast to be recorded.
    pub lost: u64,
}

/// One recorded Ethernet frame.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Since the Unix epoch.
    pub time: Duration,
    /// The frame, without checksum of its own.
    pub bytes: Vec<u8>,
}

/// What passes on a link, as it passes. Dropping it ends it.
pub struct Watch {
    recorder: Child,
    packets: Box<dyn Iterator<Item = Result<Recorded, Error>>>,
}

impl Watch {
    pub(crate) fn start(sniffer: Command) -> Result<Self, Error> {
        let (mut recorder, _) = start(sniffer, Stdio::piped())?;
        let Some(stdout) = recorder.stdout.take() else { unreachable!("it is piped") };
        Ok(Self { recorder, packets: Box::new(read(BufReader::new(stdout))) })
    }
}

impl Iterator for Watch {
    type Item = Result<Recorded, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.packets.next()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.recorder.stdin.take());
        let _ = self.recorder.wait();
    }
}

/// Returns when every later packet will be seen.
fn start(mut sniffer: Command, output: Stdio) -> Result<(Child, BufReader<ChildStderr>), Error> {
    let mut recorder = sniffer
        .stdin(Stdio::piped())
        .stdout(output)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| cannot_start(&sniffer, &error))?;
    let Some(stderr) = recorder.stderr.take() else { unreachable!("it is piped") };
    let mut stderr = BufReader::new(stderr);
    let mut line = String::new();
    let _ = stderr.read_line(&mut line);
    if line != "ready\n" {
        let _ = recorder.wait();
        let outcome = format!("failed: {}", line.trim_end());
        return Err(Error::Command { command: "lab sniff".into(), outcome });
    }
    Ok((recorder, stderr))
}

impl Capture {
    pub(crate) fn start(sniffer: Command, file: PathBuf) -> Result<Self, Error> {
        let output = File::create(&file)
            .map_err(|source| Error::io(format!("make {}", file.display()), source))?;
        let (recorder, stderr) = start(sniffer, output.into())?;
        Ok(Self { recorder, stderr, file })
    }

    /// Where the recording is, in pcap format; the file goes away with the lab.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Ends the recording and gives every packet that passed before.
    ///
    /// # Errors
    /// When the recorder failed or its file is bad.
    pub fn stop(mut self) -> Result<Captured, Error> {
        let failed = |outcome: String| Error::Command { command: "lab sniff".into(), outcome };
        drop(self.recorder.stdin.take());
        let mut said = String::new();
        let _ = self.stderr.read_to_string(&mut said);
        let status = self.recorder.wait().map_err(|error| failed(error.to_string()))?;
        if !status.success() {
            return Err(failed(format!("failed ({status}): {}", said.trim_end())));
        }
        let lost = said.trim().strip_prefix("lost ").and_then(|n| n.parse().ok());
        let lost = lost.ok_or_else(|| failed(format!("said `{}`", said.trim())))?;
        let file = File::open(&self.file)
            .map_err(|source| Error::io(format!("read {}", self.file.display()), source))?;
        let packets = read(BufReader::new(file)).collect::<Result<_, _>>()?;
        Ok(Captured { packets, lost })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.recorder.stdin.take());
        let _ = self.recorder.wait();
    }
}

/// The packets of a pcap file, as they come.
pub fn read(input: impl Read) -> impl Iterator<Item = Result<Recorded, Error>> {
    let failed =
        |error: pcap_file::PcapError| Error::io("read the recording", std::io::Error::other(error));
    let (mut reader, mut refused) = match PcapReader::new(input) {
        Ok(reader) => (Some(reader), None),
        Err(error) => (None, Some(failed(error))),
    };
    std::iter::from_fn(move || {
        if let Some(error) = refused.take() {
            return Some(Err(error));
        }
        let packet = reader.as_mut()?.next_packet()?;
        Some(
            packet
                .map_err(failed)
                .map(|packet| Recorded { time: packet.timestamp, bytes: packet.data.into_owned() }),
        )
    })
}

/// Writes the header of a pcap file.
///
/// # Errors
/// When the output refuses.
pub fn write_header(mut output: impl Write) -> std::io::Result<()> {
    let header = PcapHeader {
        snaplen: MAX_FRAME,
        datalink: DataLink::ETHERNET,
        ts_resolution: TsResolution::NanoSecond,
        endianness: Endianness::native(),
        ..PcapHeader::default()
    };
    header.write_to(&mut output).map(drop).map_err(std::io::Error::other)
}

/// Writes one packet of a pcap file.
///
/// # Errors
/// When the output refuses.
pub fn write_packet(mut output: impl Write, time: Duration, bytes: &[u8]) -> std::io::Result<()> {
    // pcap_file's writer cannot be flushed; a record's header is four words.
    let seconds = u32::try_from(time.as_secs()).map_err(std::io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
    for word in [seconds, time.subsec_nanos(), length, length] {
        output.write_all(&word.to_ne_bytes())?;
    }
    output.write_all(bytes)
}

/// An IPv6 super-packet of segmentation offload with its Ethernet header fits.
const MAX_FRAME: u32 = 0x1_0000 + 64;

/// Bytes that may wait for us in the kernel.
const BUFFER: usize = 64 << 20;

/// Records a device of the current network namespace to standard output until standard input ends;
/// on standard error it says `ready`, and at the end `lost N`.
///
/// # Errors
/// When there is no such device, or no right to listen.
pub fn sniff(device: &str) -> std::io::Result<()> {
    let index = usize::try_from(nix::net::if_::if_nametoindex(device)?).unwrap_or(usize::MAX);
    let everything = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(everything))?;
    if setsockopt(&socket, RcvBufForce, &BUFFER).is_err() {
        socket.set_recv_buffer_size(BUFFER)?;
    }
    setsockopt(&socket, ReceiveTimestampns, &true)?;
    setsockopt(&socket, RxqOvfl, &1)?;
    socket.set_nonblocking(true)?;
    let mut output = std::io::BufWriter::new(std::io::stdout().lock());
    write_header(&mut output)?;
    output.flush()?;
    eprintln!("ready");

    let stdin = std::io::stdin();
    let mut frame = vec![0; MAX_FRAME as usize];
    let mut lost = 0;
    loop {
        let mut ready = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ready, PollTimeout::NONE)?;
        let ended = ready[1].any().unwrap_or(true);
        while let Some((time, length, from)) = receive(&socket, &mut frame, &mut lost)? {
            // The socket hears every device, also each port of the bridge.
            if from == index {
                write_packet(&mut output, time, &frame[..length])?;
            }
        }
        output.flush()?;
        if ended {
            eprintln!("lost {lost}");
            return Ok(());
        }
    }
}

/// One frame: when, how long, from which device; nothing when none waits.
fn receive(
    socket: &Socket,
    frame: &mut [u8],
    lost: &mut u32,
) -> std::io::Result<Option<(Duration, usize, usize)>> {
    let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec, u32);
    let mut vector = [IoSliceMut::new(frame)];
    let message = match recvmsg::<LinkAddr>(
        socket.as_raw_fd(),
        &mut vector,
        Some(&mut space),
        MsgFlags::empty(),
    ) {
        Ok(message) => message,
        Err(nix::Error::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut time = None;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::ScmTimestampns(stamp) => time = Some(Duration::from(stamp)),
            ControlMessageOwned::RxqOvfl(count) => *lost = count,
            _ => {}
        }
    }
    let time = time.or_else(|| UNIX_EPOCH.elapsed().ok()).unwrap_or_default();
    let from = message.address.map_or(0, |address| address.ifindex());
    Ok(Some((time, message.bytes, from)))
}
