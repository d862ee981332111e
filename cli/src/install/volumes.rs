//! The volumes of a StatefulSet, which the API server never changes: an upgrade that would is refused before anything is done,
//! with the way around it.

use anyhow::bail;
use serde_json::Value;

use super::plan::Plan;
use crate::cluster::Kubectl;

/// What the chart's values say of them.
#[derive(Debug, PartialEq, Eq)]
struct Volumes {
    enabled: bool,
    size: String,
    class: String,
}

impl Volumes {
    fn of(set: &Value) -> Self {
        let claims = set.pointer("/spec/volumeClaimTemplates").and_then(Value::as_array);
        let claim = claims.and_then(|all| all.first());
        let text = |pointer: &str| {
            claim.and_then(|it| it.pointer(pointer)).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        Self {
            enabled: claim.is_some(),
            size: text("/spec/resources/requests/storage"),
            class: text("/spec/storageClassName"),
        }
    }

    /// The value that is another, as it is and as it would be.
    fn differs(&self, wanted: &Self) -> Option<(&'static str, String, String)> {
        let shown = |it: &Self| it.enabled.to_string();
        if self.enabled != wanted.enabled {
            return Some(("persistence.enabled", shown(self), shown(wanted)));
        }
        if self.class != wanted.class {
            return Some(("persistence.storageClass", self.class.clone(), wanted.class.clone()));
        }
        // The API server writes amounts in its own way.
        let is_same = match (amount(&self.size), amount(&wanted.size)) {
            (Some(here), Some(there)) => here == there,
            _ => self.size == wanted.size,
        };
        (!is_same).then(|| ("persistence.size", self.size.clone(), wanted.size.clone()))
    }
}

/// An amount as Kubernetes writes it, in thousandths of a byte.
fn amount(text: &str) -> Option<u128> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = |base: u128, exponent| base.checked_pow(exponent)?.checked_mul(1000);
    let unit = match unit {
        "m" => 1,
        "" => 1000,
        "k" => power(1000, 1)?,
        "M" => power(1000, 2)?,
        "G" => power(1000, 3)?,
        "T" => power(1000, 4)?,
        "P" => power(1000, 5)?,
        "E" => power(1000, 6)?,
        "Ki" => power(1024, 1)?,
        "Mi" => power(1024, 2)?,
        "Gi" => power(1024, 3)?,
        "Ti" => power(1024, 4)?,
        "Pi" => power(1024, 5)?,
        "Ei" => power(1024, 6)?,
        exponent => power(10, exponent.strip_prefix(['e', 'E'])?.parse().ok()?)?,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let places = 10_u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let number: u128 = format!("{whole}{part}").parse().ok()?;
    number.checked_mul(unit)?.checked_div(places)
}

/// Refuses an upgrade that would change them.
pub(super) fn same(kubectl: &Kubectl, namespace: &str, plan: &Plan) -> anyhow::Result<()> {
    let name = &plan.name;
    let path = format!("/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}");
    // Where it was taken away, the next one has whatever volumes it says.
    let Some(found) = kubectl.find(&path)? else { return Ok(()) };
    if let Some((value, here, wanted)) = Volumes::of(&found).differs(&Volumes::of(&plan.set)) {
        bail!(
            "{value}: expected `{here}`, as the StatefulSet {name} has it, got `{wanted}`: the API server changes no volumes of a StatefulSet, so that nothing was done. Either take the value back, or take the StatefulSet away without its pods and volumes, and upgrade again:\n  kubectl -n {namespace} delete statefulset {name} --cascade=orphan\nClaims that are there stay as they are: docs/upgrade.md says what becomes of each"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_compared_and_not_their_texts() {
        for (here, there) in
            [("1Gi", "1024Mi"), ("1.5Gi", "1536Mi"), ("1G", "1e9"), ("1000m", "1"), ("1073741824", "1Gi")]
        {
            assert_eq!(amount(here).unwrap(), amount(there).unwrap(), "{here} {there}");
        }
        assert_ne!(amount("1G"), amount("1Gi"));
        for text in ["", "Gi", "1X", "1.2.3", "-1", "9e99"] {
            assert!(amount(text).is_none(), "{text}");
        }
    }
}
