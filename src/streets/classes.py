"""The class numbers of the WAD 2018 labels that the scenes contain."""

BACKGROUND = 0
EGO = 255  # our own hood: a second kind of background
CAR, MOTORBICYCLE, BICYCLE, PERSON, TRUCK, BUS, TRICYCLE = 33, 34, 35, 36, 38, 39, 40
CLASSES: dict[str, int] = {
    "car": CAR,
    "motorbicycle": MOTORBICYCLE,
    "bicycle": BICYCLE,
    "person": PERSON,
    "truck": TRUCK,
    "bus": BUS,
    "tricycle": TRICYCLE,
}
GROUP_OFFSET = 128  # added to a class number for a crowd of that class
