"""Reads the shape of a mesh of devices from a text such as 'data:4,space:2'."""

from cnn_jax.errors import UserError

DATA = 'data'  # the axis over which a batch is split
SPACE = 'space'  # the axis over which the rows of an image are split
AXES = (DATA, SPACE)


def parse(text: str) -> dict[str, int]:
    """Returns the sizes that a text gives, by the name of the axis.

    Raises:
        UserError: the text has another form, or names an unknown axis or an axis twice.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, text.split(',')):
        name, _, size = (each.strip() for each in part.partition(':'))
        if name not in AXES:
            raise UserError(f'unknown axis {name!r}; must be {" or ".join(AXES)}')
        if name in sizes:
            raise UserError(f'axis {name!r} is given twice')
        if not size.isdecimal() or not int(size):
            raise UserError(f'{part!r} must be an axis and its size, such as {name}:2')
        sizes[name] = int(size)
    return sizes


def shape(text: str, devices: int) -> tuple[int, int]:
    """Returns the sizes of the axes `data` and `space` of a mesh of all `devices`.

    A missing `space` is 1. A missing `data` is the number of devices divided by `space`.

    Raises:
        UserError: as `parse`, or the sizes do not fit the number of devices.
    """
    try:
        sizes = parse(text)
        space = sizes.get(SPACE, 1)
        if devices % space:
            raise UserError(f'space:{space} must divide the number of devices, {devices}')
        data = sizes.get(DATA, devices // space)
        if data * space != devices:
            raise UserError(
                f'needs {data * space} devices, but there are {devices}; with space:{space} it '
                f'must be data:{devices // space}'
            )
    except UserError as error:
        raise UserError(f'mesh={text!r}: {error}') from error
    return data, space


def has_strips(text: str) -> bool:
    """Returns whether the rows of images are split over the devices of such a mesh."""
    return parse(text).get(SPACE, 1) > 1
