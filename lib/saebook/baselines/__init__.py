"""Methods to set an SAE against, behind one interface: fit, transform, reconstruct.

Each takes counts [n, n_units] (spikes per bin) and the trial of each bin, and gives latents, one
row per bin, and the spikes that it expects. Single-bin methods (`temporal` False) and those that
see a bin's neighbours are never to be compared in one column, and a `transductive` method has
seen the rows that it is scored on.

>>> import numpy as np
>>> counts = np.random.default_rng(0).poisson(1.0, (60, 5))
>>> trials = np.repeat([0, 1, 2], 20)
>>> for method in (PCA(n_components=2), GaussianSmoothing(sigma_s=0.1, bin_size_s=0.05)):
...     latents = method.fit(counts[:40], trials[:40]).transform(counts[40:], trials[40:])
...     print(method.name, method.temporal, latents.shape)
PCA False (20, 2)
smoothing True (20, 5)

A package (scikit-learn, elephant, …) is imported when a method that wraps it is fitted. Missing
ones name the extra to install: `pip install 'saebook[baselines]'`.
"""

from saebook.baselines.cebra import CEBRABehavior, CEBRATime
from saebook.baselines.factors import ICA, PCA, FactorAnalysis
from saebook.baselines.gpfa import GPFA
from saebook.baselines.lfads import LFADS, LFADSConfig
from saebook.baselines.method import Method
from saebook.baselines.parts import NMF, KMeans
from saebook.baselines.reference import GaussianSmoothing, RawUnits, TrueRates
from saebook.baselines.slicetca import SliceTCA

__all__ = [
    "GPFA",
    "ICA",
    "LFADS",
    "METHODS",
    "NMF",
    "PCA",
    "CEBRABehavior",
    "CEBRATime",
    "FactorAnalysis",
    "GaussianSmoothing",
    "KMeans",
    "LFADSConfig",
    "Method",
    "RawUnits",
    "SliceTCA",
    "TrueRates",
]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        RawUnits,
        PCA,
        FactorAnalysis,
        ICA,
        NMF,
        KMeans,
        GaussianSmoothing,
        GPFA,
        LFADS,
        CEBRATime,
        CEBRABehavior,
        SliceTCA,
        TrueRates,
    )
}
"""Every method by its name: single-bin ones, temporal ones, and the ceiling."""
