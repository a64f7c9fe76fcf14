"""Look at one latent after another: an interactive view that is also a still figure."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from saebook.evaluation.profiles import LatentProfiles, profiles_of
from saebook.plots.latent_profile import plot_latent_profile
from saebook.widgets.exploring import PIECES, Exploring, words_of

if TYPE_CHECKING:
    import ipywidgets

    from saebook.data import Recording
    from saebook.evaluation import Variable

WIDTH_PX = 840


def latent_explorer(
    latents: Any,
    store: Any = None,
    variables: Sequence[Variable] = (),
    *,
    table: Any = None,
    recording: Recording | None = None,
    split: str | None = "test",
    time: Any = None,
    bin_size_s: float | None = None,
    decoder: Any = None,
    units: Sequence[Any] | None = None,
    latent: int | None = None,
    variable: str | None = None,
    columns: Sequence[str] | None = None,
) -> LatentExplorer:
    """Look at latents one after another: when, in which trials, for what, by which units.

    In JupyterLab, a table to sort, filter and choose from, with the pictures of the latent chosen;
    in a page without a kernel, the figure of the first latent.

    Parameters
    ----------
    latents : SAE, StoredLatents, array, Tensor or sparse matrix
        A model, which encodes the store; what ``read_latents`` gives; or activity [n, n_latents],
        of every row of the store where there is one.
    store : ExampleStore, optional
        Binned counts of one session.
    variables : sequence of Variable
        From ``candidate_variables``; without any, no tuning is drawn. Trials come from those of
        kind "event".
    table : DataFrame or Discovery, optional
        What is known of each latent, index or column ``latent``. Columns that do more than being
        shown: ``variable`` (drawn for the latent), ``discovered`` (can be filtered by).
    recording : Recording, optional
        Gives spike times instead of counts, and regions.
    split : str or None
        Rows of the store that are shown; None for all.
    time, bin_size_s, decoder, units
        For arrays: start of each row's bin and its width, s; [n_latents, n_units] decoder; ids of
        its units.
    latent : int, optional
        Shown first; the first of the table by default.
    variable : str, optional
        Drawn whatever the latent; by default each latent's own.
    columns : sequence of str, optional
        Columns of the table that are shown.

    Returns
    -------
    LatentExplorer
        Shown as the last value of a cell.

    Raises
    ------
    DataError
        Parts that don't fit each other; no such latent, variable or column.
    SelectionError
        No row in this split.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from saebook.data import Recording, UnitCriteria, prepare
    >>> from saebook.evaluation import RandomDictionary
    >>> rng = np.random.default_rng(0)
    >>> trains = [np.sort(rng.uniform(0, 600, 3000)) for _ in range(24)]
    >>> recording = Recording.from_spike_times(trains, interval=(0, 600))
    >>> rules = UnitCriteria(max_isi_violations=None)
    >>> folder = tempfile.mkdtemp()
    >>> store = prepare(recording, f"{folder}/store", criteria=rules, progress=False)
    >>> latent_explorer(RandomDictionary(24, 8, k=2), store, latent=3).description
    'Latent 3, active on 17 % of the test bins'
    """
    profiles = profiles_of(
        latents,
        store,
        variables,
        table=table,
        recording=recording,
        split=split,
        time=time,
        bin_size_s=bin_size_s,
        decoder=decoder,
        units=units,
    )
    return LatentExplorer(profiles, latent=latent, variable=variable, columns=columns)


class LatentExplorer:
    """A view of latents, made by :func:`latent_explorer`.

    Parameters
    ----------
    profiles : LatentProfiles
        All that is known of the latents.
    latent, variable, columns
        As for :func:`latent_explorer`.

    Attributes
    ----------
    latent : int
        The latent shown; setting it redraws.
    variable : str or None
        The variable shown; setting it redraws. None: each latent's own.
    moment : int
        The strongest moment shown close up, from 0; setting it redraws.
    order : list of int
        Latents in the order of the table, those that are filtered out missing.
    description : str
        The figure in words, which screen readers get.
    """

    def __init__(
        self,
        profiles: LatentProfiles,
        *,
        latent: int | None = None,
        variable: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self._state = Exploring(profiles, latent=latent, variable=variable, columns=columns)
        self._controls: Any = None

    @property
    def profiles(self) -> LatentProfiles:
        """All that is known of the latents."""
        return self._state.profiles

    @property
    def latent(self) -> int:
        """The latent shown."""
        return self._state.latent

    @latent.setter
    def latent(self, latent: int) -> None:
        self._state.latent = latent
        self._follow()

    @property
    def variable(self) -> str | None:
        """The variable shown, None without any."""
        return self._state.variable

    @variable.setter
    def variable(self, variable: str | None) -> None:
        self._state.variable = variable
        self._follow()

    @property
    def moment(self) -> int:
        """The strongest moment shown close up."""
        return self._state.moment

    @moment.setter
    def moment(self, moment: int) -> None:
        self._state.moment = moment
        self._follow()

    @property
    def order(self) -> list[int]:
        """Latents in the order of the table."""
        return [int(latent) for latent in self._state.table.order]

    @property
    def description(self) -> str:
        """One sentence about the latent."""
        return self._state.description

    @property
    def words(self) -> str:
        """The figure in words, panel by panel."""
        return self._words({name: self._state.piece(name) for name in PIECES})

    def figure(self) -> Figure:
        """The still figure of the latent, variable and moment shown."""
        return self._drawn()[0]

    def png(self, dpi: int = 160) -> bytes:
        """The still figure as PNG."""
        return _png(self.figure(), dpi)

    def widget(self) -> ipywidgets.VBox:
        """The interactive view; made once."""
        if self._controls is None:
            from saebook.widgets.controls import Controls

            self._controls = Controls(self._state)
        return self._controls.box

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        figure, words = self._drawn()
        data: dict[str, Any] = {
            "text/plain": words,
            "image/png": base64.b64encode(_png(figure, 160)).decode("ascii"),
        }
        if _someone_is_there():
            # A frontend that knows widgets takes the view, any other one the image.
            data = {**(self.widget()._repr_mimebundle_() or {}), **data}
        return data, {"image/png": {"width": WIDTH_PX, "alt": words}}

    def _ipython_display_(self) -> None:
        from IPython.display import display

        data, metadata = self._repr_mimebundle_()
        display(data, metadata=metadata, raw=True)
        if not _someone_is_there():
            # Most pages made from notebooks drop an image's description, so it stands below.
            words = data["text/plain"]
            display({"text/markdown": words, "text/plain": words}, raw=True)

    def _drawn(self) -> tuple[Figure, str]:
        pieces = {name: self._state.piece(name) for name in PIECES}
        return plot_latent_profile(pieces, title=self.description), self._words(pieces)

    def _words(self, pieces: dict[str, Any]) -> str:
        parts = [self.description, *(words_of(name, piece) for name, piece in pieces.items())]
        return ". ".join(parts) + "."

    def _follow(self) -> None:
        if self._controls is not None:
            self._controls.show()


def _png(figure: Figure, dpi: int) -> bytes:
    stream = io.BytesIO()
    # As drawn: cropping to the ink would need a second drawing.
    quick = {"compress_level": 1}
    figure.savefig(stream, format="png", dpi=dpi, bbox_inches=None, pil_kwargs=quick)
    return stream.getvalue()


def _someone_is_there() -> bool:
    """Whether a person's frontend runs the kernel; headless engines never let a cell ask."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    kernel = getattr(shell, "kernel", None)
    return shell is None or kernel is None or bool(getattr(kernel, "_allow_stdin", True))
