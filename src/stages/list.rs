//! The macro behind the list of stages. It generates the types that hold a stage or a task of any kind.

/// Generates [`StageSpec`](super::StageSpec), [`Task`](super::Task), [`KINDS`](super::KINDS) and
/// [`kind_of`](super::kind_of) from entries `Kind(module::Config)`.
///
/// The module's name is the kind's name in YAML; it has a `KIND`, and its config is a
/// [`Stage`](super::Stage).
macro_rules! stages {
    ($($(#[doc = $doc:literal])+ $Kind:ident($module:ident::$Config:ident),)+) => {
        /// One stage: its kind and settings.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum StageSpec {
            $($(#[doc = $doc])+ $Kind($module::$Config),)+
        }

        impl StageSpec {
            /// Reads the settings of a stage of this kind; `None` if there is no such kind, or if
            /// they cannot be read.
            pub fn read(kind: &str, reader: impl ReadSettings) -> Option<Self> {
                $(if kind == $module::KIND.name {
                    return reader.read().map(StageSpec::$Kind);
                })+
                None
            }
        }

        impl std::ops::Deref for StageSpec {
            type Target = dyn Stage;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(StageSpec::$Kind(config) => config,)+
                }
            }
        }

        /// One unit of work as data: an executor may run it here or send it elsewhere.
        #[derive(Clone, Debug, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Task {
            $(
                #[doc = concat!("Of `", stringify!($module), "`.")]
                $Kind(Box<<$module::$Config as Stage>::Task>),
            )+
        }

        impl Task {
            /// Returns the kind of its stage.
            pub fn kind(&self) -> &'static StageKind {
                match self {
                    $(Task::$Kind(_) => &$module::KIND,)+
                }
            }
        }

        impl std::ops::Deref for Task {
            type Target = dyn StageTask;

            fn deref(&self) -> &Self::Target {
                match self {
                    $(Task::$Kind(task) => task.as_ref(),)+
                }
            }
        }

        $(impl From<<$module::$Config as Stage>::Task> for Task {
            fn from(task: <$module::$Config as Stage>::Task) -> Self {
                Task::$Kind(Box::new(task))
            }
        })+

        /// The names of all kinds, in the order in which data passes through them.
        pub const KINDS: [&str; [$(stringify!($module)),+].len()] = [$($module::KIND.name),+];

        /// Returns the kind of this name.
        pub fn kind_of(name: &str) -> Option<&'static StageKind> {
            $(if name == $module::KIND.name {
                return Some(&$module::KIND);
            })+
            None
        }
    };
}

pub(super) use stages;
