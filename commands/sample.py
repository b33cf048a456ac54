"""Generate video with a run, by prompts, labels or actions; animate, extend, connect, fill, edit, loop.

`mutoscope tasks RUN` lists which of these a run can do. Files go to the run's `samples/`, with a line each in `samples.jsonl`; their paths are printed. The same request gives
the same files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def run(
    words: Annotated[list[str], typer.Argument(metavar="RUN", help="A run's folder, or a pretrained one.")],
    prompt: Annotated[list[str] | None, typer.Option(help="What to show; again for further prompts.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="A text file with a prompt a line.")] = None,
    label: Annotated[list[int] | None, typer.Option(help="A class, for all clips or one per prompt.")] = None,
    actions: Annotated[list[str] | None, typer.Option(help="An action per frame, 0,0,1,1,...")] = None,
    count: Annotated[int, typer.Option(min=1, help="Clips for each prompt.")] = 1,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames; one is an image.")] = None,
    size: Annotated[str | None, typer.Option(metavar="H W", help="Rows and columns: 32 48, or 32x48.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    expand: Annotated[bool, typer.Option("--expand", help="Make prompts longer first, by the run's writer.")] = False,
    image: Annotated[Path | None, typer.Option(help="Animate an image: it is the first frame.")] = None,
    extend: Annotated[Path | None, typer.Option(help="Extend a video, by --before or --after frames.")] = None,
    before: Annotated[int, typer.Option(min=0, help="Frames to make before the video to extend.")] = 0,
    after: Annotated[int, typer.Option(min=0, help="Frames to make after the video to extend.")] = 0,
    connect: Annotated[list[Path] | None, typer.Option(help="Connect two videos: give it twice.")] = None,
    between: Annotated[int, typer.Option(min=0, help="Frames to make between the videos to connect.")] = 0,
    edit: Annotated[Path | None, typer.Option(help="Edit a video as the prompt says.")] = None,
    strength: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Of the edit; 0 changes nothing.")] = None,
    fill: Annotated[
        Path | None, typer.Option(help="Fill in a video where --mask is white, or frames are missing.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="An image, or a video of as many frames: white is made.")] = None,
    missing: Annotated[str | None, typer.Option(help="Frames to make, from 0: 3,4,7 or 3-7.")] = None,
    loop: Annotated[bool, typer.Option("--loop", help="The end leads back to the beginning.")] = False,
    window: Annotated[int | None, typer.Option(min=2, help="Frames made at a time, of longer videos.")] = None,
    overlap: Annotated[int | None, typer.Option(min=1, help="Frames that a window shares with the one before.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Another sampler than the run's.")] = None,
    format: Annotated[str, typer.Option(help="webm, mp4, gif, or png, which is exact.")] = "webm",
    fps: Annotated[float | None, typer.Option(min=0.1, help="Frames per second; by default the data's.")] = None,
    out: Annotated[Path | None, typer.Option(help="Another folder than the run's samples/.")] = None,
    plugin: Annotated[list[Path] | None, typer.Option(help="A plugin file to load.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default CUDA where there is one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was made as JSON.")] = False,
) -> None:
    from mutoscope.benchmarks.sampling import Asked, write_samples
    from mutoscope.benchmarks.sources import Begins
    from mutoscope.commands.output import show_json
    from mutoscope.core.training.progress import progress

    words, shape = read_size(words, size)
    if len(words) != 1:
        raise typer.BadParameter(f"one run at a time; got {len(words)}: {', '.join(words)}")
    asked = Asked(
        prompts=(*(prompt or ()), *(read_prompts(prompts) if prompts else ())),
        labels=tuple(label or ()),
        actions=tuple(map(read_actions, actions or ())),
        count=count,
        frames=frames,
        size=shape,
        seed=seed,
    )
    begins = Begins(
        animate=image,
        extend=extend,
        connect=tuple(connect or ()),
        edit=edit,
        fill=fill,
        mask=mask,
        missing=read_frames(missing) if missing else (),
        before=before,
        after=after,
        between=between,
        loop=loop,
        strength=strength,
        window=window,
        overlap=overlap,
        sampler=sampler,
        expand=expand,
    )
    made, notes = write_samples(Path(words[0]), asked, format, fps, out, plugin or [], device, progress(), begins)
    for note in notes:
        typer.echo(note, err=True)
    if json:
        show_json(made)
    else:
        for record in made:
            typer.echo(record["path"])


def read_size(words: list[str], size: str | None) -> tuple[list[str], tuple[int, int] | None]:
    """`--size 32 48` leaves its second number among the other words; `32x48` and `32` do not."""
    from mutoscope.core.errors import InputError

    if size is None:
        return words, None
    sides = size.lower().replace(",", "x").split("x")
    loose = [word for word in words if word.isdecimal()]
    if len(sides) == 1 and len(words) > 1 and len(loose) == 1:
        words, sides = [word for word in words if word != loose[0]], [*sides, loose[0]]
    if len(sides) == 1:
        sides = sides * 2
    if len(sides) != 2 or not all(side.strip().isdecimal() and 0 < int(side) < 1 << 16 for side in sides):
        raise InputError(field="--size", problem="must be rows and columns", got=size, allowed="32 48, or 32x48")
    return words, (int(sides[0]), int(sides[1]))


def read_prompts(file: Path) -> tuple[str, ...]:
    """The lines of a file that say something."""
    from mutoscope.core.errors import InputError

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: is not a text in UTF-8") from None
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise InputError(f"{file}: has no prompt in it")
    return prompts


def read_actions(text: str) -> tuple[int, ...]:
    from mutoscope.core.errors import InputError

    numbers = text.replace(",", " ").split()
    if not numbers or not all(number.isdecimal() for number in numbers):
        raise InputError(field="--actions", problem="must be whole numbers, one per frame", got=text, allowed="0,0,1,1")
    return tuple(map(int, numbers))


def read_frames(text: str) -> tuple[int, ...]:
    """`3,4,7` or `3-7`, numbers of frames from 0."""
    from mutoscope.core.errors import InputError

    found: list[int] = []
    for word in text.replace(",", " ").split():
        low, _, high = word.partition("-")
        if not low.isdecimal() or not (high or low).isdecimal() or int(high or low) < int(low):
            raise InputError(field="--missing", problem="must be frames from 0", got=text, allowed="3,4,7 or 3-7")
        found += range(int(low), int(high or low) + 1)
    return tuple(dict.fromkeys(found))
