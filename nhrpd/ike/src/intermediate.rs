//! A second key exchange that quantum computers do not break: ML-KEM in IKE_INTERMEDIATE
//! (RFC 9242, RFC 9370), between IKE_SA_INIT and IKE_AUTH. All later keys depend on both.
//!
//! It is proposed first, and without it second, so that a peer which does not know it can choose
//! the latter. A successor made by rekeying needs no second ML-KEM: its keys come from SK_d, which
//! only those know who were part of the first.

use crate::crypto::channel::Channel;
use crate::crypto::group::{DecapsulationKey, InvalidPublicValue};
use crate::crypto::keys::{Contributions, Keys};

use crate::engine::{Context, Fate};
use crate::private::peer_refusal;
use crate::sa::{Handshake, Request, Sa, State};
use crate::wire::payload::ENCRYPTED;
use crate::wire::{self, Exchange, Header, NotifyType, PAYLOAD_HEADER_LEN, Payload};
use crate::{Engine, Refusal, private};

/// What AUTH covers of IKE_INTERMEDIATE (RFC 9242 §3.3.2).
pub(crate) struct IntAuth {
    pub(crate) initiator: Vec<u8>,
    pub(crate) responder: Vec<u8>,
}

/// Message ID of the IKE_AUTH that follows the one IKE_INTERMEDIATE.
const AUTH_MESSAGE_ID: u32 = 2;

impl IntAuth {
    /// `IntAuth_iN | IntAuth_rN | IKE_AUTH_MID`.
    pub(crate) fn octets(&self) -> Vec<u8> {
        [&self.initiator[..], &self.responder, &AUTH_MESSAGE_ID.to_be_bytes()].concat()
    }
}

/// An initiator's part before the response.
pub(crate) struct Intermediate {
    handshake: Handshake,
    key: DecapsulationKey,
    /// What AUTH covers of the request.
    request: Vec<u8>,
}

impl Handshake {
    pub(crate) fn wants_intermediate(&self) -> bool {
        self.suite.additional.is_some() && self.int_auth.is_none()
    }
}

/// RFC 9242 §3.3.2: header, encrypted payload's header and what is inside, with the lengths that
/// they have without encryption, and as if the message had not been cut into fragments.
fn covered(header: &Header, first: u8, inner: &[u8]) -> Vec<u8> {
    let len = PAYLOAD_HEADER_LEN + inner.len();
    let header = Header { next_payload: ENCRYPTED, ..*header };
    [&header.encode(len)[..], &[first, 0], &(len as u16).to_be_bytes(), inner].concat()
}

fn additional_public(payloads: &[Payload], method: u16) -> Option<&[u8]> {
    payloads.iter().find_map(|payload| match payload {
        Payload::KeyExchange { group, data } if *group == method => Some(&data[..]),
        _ => None,
    })
}

impl Engine {
    /// Takes the second shared secret in: new keys, and what AUTH has to cover. Gives the channel
    /// that was in use until now.
    fn upgrade(
        &mut self,
        handshake: &mut Handshake,
        sa: &mut Sa,
        shared_secret: &[u8],
        request: &[u8],
        response: &[u8],
    ) -> Option<Box<Channel>> {
        let prf = handshake.suite.prf;
        // RFC 9242 §3.3.2: with the keys from before the exchange.
        handshake.int_auth = Some(IntAuth {
            initiator: prf.compute(&handshake.sk_pi, &[request]).to_vec(),
            responder: prf.compute(&handshake.sk_pr, &[response]).to_vec(),
        });
        let (initiator_spi, responder_spi) = sa.spis();
        // RFC 9370 §2.2.2: the formula is that of rekeying.
        let keys = Keys::derive_from(
            prf,
            &handshake.sk_d,
            &handshake.suite,
            &Contributions {
                shared_secret,
                initiator_nonce: &handshake.initiator_nonce,
                responder_nonce: &handshake.responder_nonce,
                initiator_spi,
                responder_spi,
            },
            sa.initiator,
        );
        self.log_ike_keys((initiator_spi, responder_spi), &handshake.suite, &keys);
        (handshake.sk_d, handshake.sk_pi, handshake.sk_pr) = (keys.sk_d, keys.sk_pi, keys.sk_pr);
        sa.channel.replace(Box::new(keys.channel))
    }

    pub(crate) fn send_intermediate(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        handshake: Handshake,
    ) -> Result<(), Refusal> {
        let broken = |error: InvalidPublicValue| Refusal(error.to_string());
        let kem = handshake.suite.additional.ok_or(InvalidPublicValue).map_err(broken)?;
        let (key, public) = kem.generate().map_err(broken)?;
        let payloads = [Payload::KeyExchange { group: kem.id, data: public }];
        let header = sa.header(Exchange::IKE_INTERMEDIATE, false, sa.next_request);
        let (first, inner) = wire::encode_chain(&payloads);
        let request = covered(&header, first, &inner);
        self.send_request(context.now, sa, Request::Intermediate, &payloads, context.rng);
        sa.state = State::Intermediate(Box::new(Intermediate { handshake, key, request }));
        Ok(())
    }

    /// Response to IKE_INTERMEDIATE, decrypted.
    pub(crate) fn handle_intermediate_response(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        header: &Header,
        first: u8,
        plain: &[u8],
    ) -> Fate {
        let State::Intermediate(sent) = std::mem::replace(&mut sa.state, State::Closing) else {
            return Fate::Forget;
        };
        let Intermediate { mut handshake, key, request } = *sent;
        let payloads = wire::decode_chain(first, plain).unwrap_or_default();
        let refused = peer_refusal(&payloads).map(|(_, words)| format!("peer refused us: {words}"));
        let secret = handshake
            .suite
            .additional
            .and_then(|kem| kem.decapsulate(&key, additional_public(&payloads, kem.id)?).ok());
        let result = match (refused, secret) {
            (Some(words), _) => Err(Refusal(words)),
            (None, None) => Err(Refusal("peer's IKE_INTERMEDIATE holds no valid key".into())),
            (None, Some(secret)) => {
                self.upgrade(&mut handshake, sa, &secret, &request, &covered(header, first, plain));
                self.send_auth(context, sa, handshake)
            }
        };
        match result {
            Ok(()) => Fate::Keep,
            Err(reason) => {
                self.fail(sa, None, reason);
                Fate::Forget
            }
        }
    }

    /// The peer's IKE_INTERMEDIATE, decrypted.
    pub(crate) fn handle_intermediate(
        &mut self,
        sa: &mut Sa,
        header: &Header,
        first: u8,
        plain: &[u8],
    ) -> Fate {
        let State::HalfOpen(mut handshake) = std::mem::replace(&mut sa.state, State::Refused)
        else {
            return Fate::Forget;
        };
        let encapsulated = wire::decode_chain(first, plain).ok().and_then(|payloads| {
            let kem = handshake.suite.additional?;
            let (ciphertext, secret) =
                kem.encapsulate(additional_public(&payloads, kem.id)?).ok()?;
            Some((Payload::KeyExchange { group: kem.id, data: ciphertext }, secret))
        });
        let exchange = Exchange::IKE_INTERMEDIATE;
        let Some((payload, secret)) = encapsulated else {
            let words = "IKE_INTERMEDIATE holds no valid ML-KEM key";
            let kind = NotifyType::INVALID_SYNTAX;
            self.respond(sa, exchange, &private::refusal(kind, &[], words, handshake.ours));
            self.fail(sa, None, Refusal(format!("we refused the peer: its {words}")));
            return Fate::Keep;
        };
        let payloads = [payload];
        self.respond(sa, exchange, &payloads);
        let (kind, inner) = wire::encode_chain(&payloads);
        let answer = sa.header(exchange, true, header.message_id);
        let response = covered(&answer, kind, &inner);
        handshake.former =
            self.upgrade(&mut handshake, sa, &secret, &covered(header, first, plain), &response);
        sa.state = State::HalfOpen(handshake);
        Fate::Keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::group::ML_KEM_768;

    #[test]
    fn rfc9242_3_3_2_auth_covers_the_message_as_if_it_were_not_encrypted() {
        let mut message: Vec<u8> = (0..16).collect();
        // Next payload SK, version, exchange, flags, message ID, length; then SK.
        message.extend([46, 0x20, 43, 0x08, 0, 0, 0, 1, 0, 0, 0, 70]);
        message.extend([34, 0, 0, 42]);
        message.extend([0xee; 38]);
        let header = Header::decode(&message).unwrap();
        let mut expected = message[..24].to_vec();
        expected.extend([0, 0, 0, 28 + 4 + 5, 34, 0, 0, 4 + 5, 1, 2, 3, 4, 5]);
        assert_eq!(covered(&header, 34, &[1, 2, 3, 4, 5]), expected);
        let fragment = Header { next_payload: 53, ..header };
        assert_eq!(covered(&fragment, 34, &[1, 2, 3, 4, 5]), expected);
        let int_auth = IntAuth { initiator: vec![0xaa], responder: vec![0xbb] };
        assert_eq!(int_auth.octets(), [0xaa, 0xbb, 0, 0, 0, 2]);
    }

    #[test]
    fn fips203_sizes_and_agreement() {
        let (key, public) = ML_KEM_768.generate().unwrap();
        let (ciphertext, secret) = ML_KEM_768.encapsulate(&public).unwrap();
        assert_eq!((public.len(), ciphertext.len(), secret.len()), (1184, 1088, 32));
        assert_eq!(ML_KEM_768.decapsulate(&key, &ciphertext), Ok(secret));
        assert!(ML_KEM_768.encapsulate(&public[1..]).is_err());
        assert!(ML_KEM_768.encapsulate(&[0xff; 1184]).is_err(), "FIPS 203 §7.2: modulus");
        assert!(ML_KEM_768.decapsulate(&key, &ciphertext[1..]).is_err());
    }
}
