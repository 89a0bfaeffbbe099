//! At which levels a program runs, and what it refreshes: the planner's choices.

/// Where a layer may refresh a ciphertext, in order of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefreshPoint {
    /// The mean squares of the first norm, both halves in one ciphertext.
    FirstNormSums,
    /// What the first norm makes: the input of the projections.
    Normalized,
    /// The denominators of all heads and both halves.
    RowSums,
    /// The residual stream after attention.
    Attended,
    /// The mean squares of the second norm.
    SecondNormSums,
    /// The residual stream after the feed-forward block.
    Output,
}

impl RefreshPoint {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::FirstNormSums,
        Self::Normalized,
        Self::RowSums,
        Self::Attended,
        Self::SecondNormSums,
        Self::Output,
    ];

    /// The row of a report.
    pub(crate) fn operator(self) -> &'static str {
        match self {
            Self::FirstNormSums => "refresh.norm1_sums",
            Self::Normalized => "refresh.norm1",
            Self::RowSums => "refresh.row_sums",
            Self::Attended => "refresh.attention",
            Self::SecondNormSums => "refresh.norm2_sums",
            Self::Output => "refresh.output",
        }
    }
}

/// What one layer refreshes and where the results land, and the level at which its own result leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LayerSchedule {
    landings: [Option<usize>; RefreshPoint::ALL.len()],
    /// Level of the stream that the next layer receives, if it is to be dropped to one.
    pub(crate) out: Option<usize>,
}

impl LayerSchedule {
    /// Level to which a point's result drops; `None` where nothing is refreshed.
    pub(crate) fn landing(&self, point: RefreshPoint) -> Option<usize> {
        self.landings[point as usize]
    }

    /// Refreshes at a point.
    pub(crate) fn refresh(&mut self, point: RefreshPoint, landing: usize) {
        self.landings[point as usize] = Some(landing);
    }
}

/// The choices for a whole model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Level at which the client's normalised values enter.
    pub(crate) input: usize,
    /// One a layer.
    pub(crate) layers: Vec<LayerSchedule>,
}
