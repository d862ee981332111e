//! Roles, and who has them.
//!
//! `viewer` reads; `namespace-operator` also acts on workloads of the namespaces that its binding lists; `operator`
//! acts on everything but people; `security-admin` may do all. A person has the highest mesh-wide role of all
//! bindings that name them, and every namespace that any of them lists.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use signet_ca::Person;

/// From least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Viewer,
    NamespaceOperator,
    Operator,
    SecurityAdmin,
}

impl Role {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::NamespaceOperator => "namespace-operator",
            Self::Operator => "operator",
            Self::SecurityAdmin => "security-admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A role for some people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub role: Role,
    /// Where; only and always of `namespace-operator`.
    pub namespaces: BTreeSet<String>,
    /// `<provider>|<username>`: a name says nothing without who vouches for it.
    pub users: BTreeSet<String>,
    /// `<provider>|<group>`
    pub groups: BTreeSet<String>,
    pub uids: BTreeSet<u32>,
}

/// All bindings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roles(pub Vec<Binding>);

/// What one caller has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Mesh-wide; never `namespace-operator`.
    pub role: Option<Role>,
    pub namespaces: BTreeSet<String>,
}

/// What a call needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    pub role: Role,
    /// The one that a `namespace-operator` must have; without it that role never suffices.
    pub namespace: Option<String>,
}

impl Need {
    #[must_use]
    pub fn of(role: Role) -> Self {
        Self { role, namespace: None }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, self.role) {
            (Some(namespace), Role::NamespaceOperator) => {
                write!(f, "namespace-operator of {namespace:?}, operator or security-admin")
            }
            (_, Role::Viewer) => f.write_str("any role"),
            (_, Role::SecurityAdmin) => f.write_str("security-admin"),
            _ => f.write_str("operator or security-admin"),
        }
    }
}

impl Roles {
    /// What a person who logged in has; nothing if no binding names them.
    #[must_use]
    pub fn of_person(&self, person: &Person) -> Standing {
        let vouched = |name: &str| format!("{}|{name}", person.provider);
        let user = person.username.as_deref().map(vouched);
        let groups: BTreeSet<String> = person.groups.iter().map(|group| vouched(group)).collect();
        self.standing(|binding| {
            user.as_ref().is_some_and(|user| binding.users.contains(user))
                || !binding.groups.is_disjoint(&groups)
        })
    }

    /// What a caller on the socket has. Only listed uids come that far; one that no binding names may do all, as
    /// whoever is listed could before there were roles.
    #[must_use]
    pub fn of_uid(&self, uid: u32) -> Standing {
        if self.0.iter().any(|binding| binding.uids.contains(&uid)) {
            return self.standing(|binding| binding.uids.contains(&uid));
        }
        Standing { role: Some(Role::SecurityAdmin), namespaces: BTreeSet::new() }
    }

    fn standing(&self, names: impl Fn(&Binding) -> bool) -> Standing {
        let mut standing = Standing::default();
        for binding in self.0.iter().filter(|binding| names(binding)) {
            if binding.role == Role::NamespaceOperator {
                standing.namespaces.extend(binding.namespaces.iter().cloned());
            } else {
                standing.role = standing.role.max(Some(binding.role));
            }
        }
        standing
    }
}

impl Standing {
    /// No binding names them.
    #[must_use]
    pub fn is_nobody(&self) -> bool {
        self.role.is_none() && self.namespaces.is_empty()
    }

    #[must_use]
    pub fn may(&self, need: &Need) -> bool {
        match need.role {
            Role::Viewer => !self.is_nobody(),
            Role::NamespaceOperator => {
                self.role >= Some(Role::Operator)
                    || need.namespace.as_ref().is_some_and(|namespace| self.namespaces.contains(namespace))
            }
            least => self.role >= Some(least),
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces: Vec<&str> = self.namespaces.iter().map(String::as_str).collect();
        match (self.role, namespaces.as_slice()) {
            (None, []) => f.write_str("nobody"),
            (Some(role), []) => f.write_str(role.as_str()),
            (None, some) => write!(f, "namespace-operator of {}", some.join(", ")),
            (Some(role), some) => write!(f, "{role} and namespace-operator of {}", some.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|text| (*text).to_owned()).collect()
    }

    fn binding(role: Role) -> Binding {
        Binding {
            role,
            namespaces: BTreeSet::new(),
            users: BTreeSet::new(),
            groups: BTreeSet::new(),
            uids: BTreeSet::new(),
        }
    }

    fn person(username: Option<&str>, groups: &[&str]) -> Person {
        Person {
            provider: "corp".into(),
            issuer: "https://login.example.com".into(),
            subject: "u-1".into(),
            username: username.map(str::to_owned),
            name: None,
            groups: texts(groups),
        }
    }

    fn roles() -> Roles {
        Roles(vec![
            Binding { users: texts(&["corp|ada@example.com"]), ..binding(Role::Viewer) },
            Binding {
                groups: texts(&["corp|shop-team"]),
                namespaces: texts(&["shop"]),
                ..binding(Role::NamespaceOperator)
            },
            Binding { groups: texts(&["corp|on-call"]), ..binding(Role::Operator) },
            Binding { groups: texts(&["partner|admins"]), ..binding(Role::SecurityAdmin) },
            Binding { uids: BTreeSet::from([1001]), ..binding(Role::Viewer) },
        ])
    }

    #[test]
    fn a_person_has_the_highest_role_and_every_namespace_of_their_bindings() {
        let roles = roles();
        let ada = roles.of_person(&person(Some("ada@example.com"), &["shop-team"]));
        assert_eq!(ada.to_string(), "viewer and namespace-operator of shop");
        let on_call = roles.of_person(&person(Some("ada@example.com"), &["on-call"]));
        assert_eq!(on_call.role, Some(Role::Operator));
        assert!(roles.of_person(&person(None, &["strangers"])).is_nobody());
    }

    #[test]
    fn a_group_of_another_provider_of_the_same_name_gives_nothing() {
        assert!(roles().of_person(&person(None, &["admins"])).is_nobody());
        assert!(roles().of_person(&person(Some("partner|admins"), &[])).is_nobody());
    }

    #[test]
    fn each_role_may_what_the_ones_below_it_may_and_a_namespace_operator_only_in_its_namespaces() {
        let need = |role, namespace: Option<&str>| Need { role, namespace: namespace.map(str::to_owned) };
        let shop = Standing { role: None, namespaces: texts(&["shop"]) };
        assert!(shop.may(&need(Role::Viewer, None)));
        assert!(shop.may(&need(Role::NamespaceOperator, Some("shop"))));
        assert!(!shop.may(&need(Role::NamespaceOperator, Some("bank"))));
        assert!(!shop.may(&need(Role::NamespaceOperator, None)));
        assert!(!shop.may(&need(Role::Operator, Some("shop"))));
        let with = |role| Standing { role: Some(role), namespaces: BTreeSet::new() };
        assert!(!with(Role::Viewer).may(&need(Role::NamespaceOperator, Some("shop"))));
        assert!(with(Role::Operator).may(&need(Role::NamespaceOperator, Some("shop"))));
        assert!(with(Role::Operator).may(&need(Role::NamespaceOperator, None)));
        assert!(!with(Role::Operator).may(&need(Role::SecurityAdmin, None)));
        assert!(with(Role::SecurityAdmin).may(&need(Role::SecurityAdmin, None)));
        assert!(!Standing::default().may(&need(Role::Viewer, None)));
    }

    #[test]
    fn a_uid_that_no_role_names_may_do_all_as_before_there_were_roles() {
        assert_eq!(roles().of_uid(0).role, Some(Role::SecurityAdmin));
        assert_eq!(roles().of_uid(1001).role, Some(Role::Viewer));
    }
}
