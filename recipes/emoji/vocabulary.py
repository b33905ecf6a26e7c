"""The words of the emoji world: 24 objects and 8 colours, each in English, in Chinese and as an emoji."""

from typing import NamedTuple


class Thing(NamedTuple):
    """One kind of object; `classifier` is the Chinese measure word that goes between a number and the noun."""

    emoji: str
    name: str
    plural: str
    chinese: str
    classifier: str


class Color(NamedTuple):
    """One colour; `rgb` is what the middle tone of a tinted object becomes."""

    emoji: str
    name: str
    chinese: str
    rgb: tuple[int, int, int]


THINGS = {
    thing.name: thing
    for thing in (
        Thing("🍎", "apple", "apples", "苹果", "个"),
        Thing("🐈", "cat", "cats", "猫", "只"),
        Thing("🐕", "dog", "dogs", "狗", "只"),
        Thing("🚗", "car", "cars", "汽车", "辆"),
        Thing("🌳", "tree", "trees", "树", "棵"),
        Thing("🏠", "house", "houses", "房子", "座"),
        Thing("📕", "book", "books", "书", "本"),
        Thing("⏰", "clock", "clocks", "闹钟", "个"),
        Thing("🍌", "banana", "bananas", "香蕉", "根"),
        Thing("🐦", "bird", "birds", "鸟", "只"),
        Thing("🐟", "fish", "fish", "鱼", "条"),
        Thing("🌻", "sunflower", "sunflowers", "向日葵", "朵"),
        Thing("🎸", "guitar", "guitars", "吉他", "把"),
        Thing("☂️", "umbrella", "umbrellas", "伞", "把"),
        Thing("🔑", "key", "keys", "钥匙", "把"),
        Thing("🍕", "pizza", "pizzas", "披萨", "块"),
        Thing("🚀", "rocket", "rockets", "火箭", "枚"),
        Thing("⭐", "star", "stars", "星星", "颗"),
        Thing("🪑", "chair", "chairs", "椅子", "把"),
        Thing("☕", "cup", "cups", "杯子", "个"),
        Thing("🎩", "hat", "hats", "帽子", "顶"),
        Thing("🍄", "mushroom", "mushrooms", "蘑菇", "个"),
        Thing("⛵", "boat", "boats", "帆船", "艘"),
        Thing("❤️", "heart", "hearts", "心", "颗"),
    )
}

COLORS = {
    color.name: color
    for color in (
        Color("🟥", "red", "红色", (222, 40, 40)),
        Color("🟧", "orange", "橙色", (250, 140, 20)),
        Color("🟨", "yellow", "黄色", (250, 214, 30)),
        Color("🟩", "green", "绿色", (50, 165, 60)),
        Color("🟦", "blue", "蓝色", (45, 100, 225)),
        Color("🟪", "purple", "紫色", (140, 60, 190)),
        Color("🟫", "brown", "棕色", (122, 72, 40)),
        Color("⬛", "black", "黑色", (42, 42, 46)),
    )
}

NUMBERS = {2: "two", 3: "three", 4: "four"}
CHINESE_NUMBERS = {1: "一", 2: "两", 3: "三", 4: "四"}
CHINESE_RELATIONS = {"left of": "左边", "right of": "右边", "above": "上面", "below": "下面"}
RELATIONS = tuple(CHINESE_RELATIONS)
