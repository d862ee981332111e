//! TLS alerts: what a peer says that refuses us, and what that can mean here.
//!
//! An alert is one byte. What it means depends on who we are at that moment, so that is said with it: our dates beside
//! our clock, our trust domain, our class.

use rustls::AlertDescription;

use crate::{
    dates::{rfc3339, span},
    incidents::Own,
};

/// The alert's name in RFC 8446.
pub(crate) fn name(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnrecognisedName => return "unrecognized_name".to_owned(),
        AlertDescription::UnknownPSKIdentity => return "unknown_psk_identity".to_owned(),
        AlertDescription::Unknown(number) => return format!("alert {number}"),
        _ => {}
    }
    let mut name = String::new();
    let mut lower = false;
    for character in format!("{alert:?}").chars() {
        if character.is_ascii_uppercase() && lower {
            name.push('_');
        }
        lower = !character.is_ascii_uppercase();
        name.push(character.to_ascii_lowercase());
    }
    name
}

/// In a sentence about the peer.
pub(super) fn words(alert: AlertDescription) -> String {
    let meaning = match alert {
        AlertDescription::UnknownCA => "no root that it has vouches for our certificate",
        AlertDescription::CertificateUnknown => "it does not take our certificate",
        AlertDescription::BadCertificate => "our certificate is not of the shape that it takes",
        AlertDescription::CertificateExpired => "by its clock our certificate is not valid now",
        AlertDescription::CertificateRevoked => "our certificate, key or identity is revoked",
        AlertDescription::AccessDenied => "we are not who it expects",
        AlertDescription::CertificateRequired => "it wants a certificate of ours",
        AlertDescription::NoApplicationProtocol => "it speaks another protocol on this port",
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3",
        AlertDescription::UnrecognisedName => "it does not answer for the name that we dialled",
        AlertDescription::DecodeError => "it could not read what we sent",
        AlertDescription::DecryptError => "a signature of ours is wrong",
        AlertDescription::HandshakeFailure => "it has nothing in common with us that it would use",
        _ => "it says no more",
    };
    format!("{meaning} ({})", name(alert))
}

/// Where to look, for whoever has only this side.
pub(super) fn advice(alert: AlertDescription, own: Option<&Own>, now: i64) -> String {
    let who = own.map_or_else(|| "we".to_owned(), |own| format!("{} (class {})", own.identity, own.class));
    let here = match alert {
        AlertDescription::CertificateExpired => own.map_or_else(
            || "Compare both clocks, and the dates of our certificate.".to_owned(),
            |own| expired(own, now),
        ),
        AlertDescription::UnknownCA => format!(
            "The peer has no root for {who}. Of one trust domain: its bundle or ours is stale (is its delivery stream \
             open?), or these are two meshes of one name. Of another: it is not federated with ours, or no policy there \
             names anybody of ours."
        ),
        AlertDescription::AccessDenied => format!(
            "The certificate of {who} is good, but not whose the peer wants there. Where it dialled us: it expects another \
             identity at this address; look at the Service's endpoints and identities. Where we dialled it: this class may \
             not call there."
        ),
        AlertDescription::CertificateRevoked => match own.and_then(|own| own.revoked_by.as_ref()) {
            Some(by) => format!("{who} is revoked, by {by}, and we know it too: `signet ca log` says by whom and why."),
            None => format!(
                "The peer knows {who} as revoked: `signet ca log` says by whom and why. We have not been told: is our \
                 delivery stream open?"
            ),
        },
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown | AlertDescription::UnsupportedCertificate => {
            format!("The peer could not take the certificate of {who}; the exact reason is on its side only.")
        }
        AlertDescription::CertificateRequired => "We sent no certificate. Who has none yet cannot call: look at our own \
             renewal (`signet::identity` in our log)."
            .to_owned(),
        AlertDescription::NoApplicationProtocol => "The two sides mean different protocols for this port: the `protocol` in \
             the Service, as each side has it."
            .to_owned(),
        AlertDescription::ProtocolVersion | AlertDescription::UnrecognisedName | AlertDescription::HandshakeFailure => {
            "This is no sidecar of the mesh, or not the one that was meant: find out who listens at this address.".to_owned()
        }
        AlertDescription::DecryptError => "Treat it as an attack, or as a broken machine.".to_owned(),
        _ => "Its number alone says no more.".to_owned(),
    };
    format!(
        "{here} The peer's side has the whole reason: `signet handshakes` there, or its log (`signet::handshake`)."
    )
}

/// The peer thinks that our certificate is not valid now.
fn expired(own: &Own, now: i64) -> String {
    let dates = format!(
        "Our certificate is valid from {} to {}, and our clock says {}.",
        rfc3339(own.not_before),
        rfc3339(own.not_after),
        rfc3339(now)
    );
    if now > own.not_after {
        return format!(
            "{dates} It has ended by our own clock, too: look at our renewal (`signet::identity` in our log)."
        );
    }
    if now < own.not_before {
        return format!(
            "{dates} It has not begun by our own clock, either: compare it with the control plane's."
        );
    }
    let least = now.saturating_sub(own.not_before).min(own.not_after.saturating_sub(now));
    format!(
        "{dates} By our clock it is good, so the two clocks differ by {} at least: compare both with a third, and \
         `signet_control_clock_skew_seconds` of both.",
        span(least)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_have_the_names_of_the_standard() {
        for (alert, expected) in [
            (AlertDescription::CertificateExpired, "certificate_expired"),
            (AlertDescription::UnknownCA, "unknown_ca"),
            (AlertDescription::UnrecognisedName, "unrecognized_name"),
            (AlertDescription::NoApplicationProtocol, "no_application_protocol"),
            (AlertDescription::Unknown(200), "alert 200"),
        ] {
            assert_eq!(name(alert), expected);
        }
    }
}
