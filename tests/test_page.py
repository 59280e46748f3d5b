import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers import PROJECT, compress, model, svd
from helpers.backend import keras
from helpers.lab import page
from helpers.ranks import shared_ranks

RANKS = [3, 1, 8]
COMMITTED = PROJECT / "figures" / page.NAME
BROWSERS = "chromium", "google-chrome", "chrome", "chromium-browser"


def small(seed=0):
    """As the baseline is built, but narrow."""
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(32, "relu", name=f"hidden_{i}") for i in range(1, 4)]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10, name="output")])


@pytest.fixture(scope="module")
def network(few):
    trained = small()
    trained.compile("adam", page.LOSS)
    trained.fit(*few.train, epochs=15, verbose=0)
    return trained


@pytest.fixture(scope="module")
def measured(network, few):
    return page.measure(network, small(), few, RANKS) | {"epochs": 15, "seed": 0}


@pytest.fixture(scope="module")
def written(measured, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    page.write(measured, path)
    return path


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="measured">(.*?)</script>', text, re.DOTALL)[1])


def pixels(uri):
    kind, content = uri.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"), float)


def test_a_cut_is_what_compress_makes(measured, network, few):
    sighted = {"inputs": few.x_train, "loss": page.LOSS}
    by_loss = compress.decompose(network, **sighted)
    assert measured["D"] == [1, 3, 8, 32]
    for i, D in enumerate([1, 3, 8]):
        ranks = {page.PLAIN: [D] * 3, page.BEST: shared_ranks(by_loss, D)}
        cuts = {page.PLAIN: compress.truncate(network, D)}
        cuts[page.BEST] = compress.truncate(network, ranks[page.BEST], **sighted)
        for method, cut in cuts.items():
            found = measured["methods"][method][i]
            W_D = cut.get_layer("hidden_1").get_weights()[0]
            assert found["ranks"] == ranks[method]
            assert found["accuracy"] == pytest.approx(model.accuracy(cut, *few.test), abs=2e-3)
            assert len(found["s"]) == ranks[method][0]
            assert np.allclose(found["s"], svd.decompose(W_D).s[: len(found["s"])], rtol=1e-3)
            by_name = dict(zip(by_loss, ranks[method], strict=True))
            assert found["parameters"] == compress.kept_parameters(network, by_name)


def test_digits_misread_are_those_that_the_uncut_network_reads_right(measured, network, few):
    right = model.logits(network, few.x_test).argmax(axis=1) == few.y_test
    for D, found in zip([1, 3, 8], measured["methods"][page.PLAIN], strict=False):
        read = model.logits(compress.truncate(network, D), few.x_test).argmax(axis=1)
        worse = [i for i in range(len(read)) if right[i] and read[i] != few.y_test[i]]
        assert found["misread"] == len(worse) > 0
        assert found["digits"] == [[i, few.y_test[i], read[i]] for i in worse[: page.DIGITS]]
        for i in worse[: page.DIGITS]:
            ink = 255 - pixels(measured["images"][str(i)])[..., 0]
            assert np.allclose(ink, 255 * few.x_test[i].reshape(28, 28), atol=1)


def test_all_singular_values_kept_is_the_uncut_network(measured, network, few):
    for cuts in measured["methods"].values():
        assert len(cuts) == len(measured["D"])
        assert cuts[-1]["accuracy"] == model.accuracy(network, *few.test)
        assert cuts[-1]["parameters"] == network.count_params()
        assert (cuts[-1]["misread"], cuts[-1]["digits"]) == (0, [])
        assert cuts[-1]["W_D"] == measured["W"]


def test_the_noise_edge_is_that_of_what_is_left_of_the_start():
    W_0 = np.random.default_rng(0).normal(0, model.initial_std(784), (784, 1024))
    edge = page._noise_edge(0.2 * W_0, W_0)
    assert edge == pytest.approx(svd.decompose(0.2 * W_0).s[0], rel=0.02)


def test_a_picture_shows_columns_side_by_side_orange_below_zero_and_purple_above():
    W = np.zeros((784, 64))
    W[:, 0], W[28 * 3 + 5, 4 * 6] = -1, 1  # the first unit shown, and one pixel of the seventh
    red, _, blue = np.moveaxis(pixels(page._colours(page._units(W), 1)), -1, 0)
    assert red.shape == (116, 116)
    assert np.array_equal(np.argwhere(red - blue > 60), np.argwhere(np.ones((28, 28))))
    assert np.argwhere(blue - red > 20).tolist() == [[29 + 3, 2 * 29 + 5]]
    assert min(red[60, 60], blue[60, 60]) > 235  # white, at 0


def test_beyond_the_scale_a_colour_is_that_of_its_end():
    ends = pixels(page._colours(np.array([[-9.0, -1, 1, 9]]), 1))[0]
    assert np.array_equal(ends[[0, 3]], ends[[1, 2]])


def test_the_page_holds_what_was_measured_whatever_it_is_called(measured, tmp_path):
    named = measured | {"dataset": "</script><b>$measured"}
    page.write(named, tmp_path / "page.html")
    assert data_of(tmp_path / "page.html") == json.loads(json.dumps(named))
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("</script>") == 2


@pytest.mark.parametrize("committed", [False, True])
def test_the_page_needs_nothing_else_and_is_small(committed, written):
    path = COMMITTED if committed else written
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert re.findall(r"//\w[^\s\"']+", text) == ["//www.w3.org/2000/svg"]  # the name of a kind
    assert re.findall(r' (?:src|href)="([^"]*)"', text) == ["data:,"]
    assert not re.search(r"@import|url\(|\bfetch\b|XMLHttpRequest|\bimport\b", text)
    assert "default-src 'none'" in text
    assert path.stat().st_size < 2e6


def test_the_committed_page_is_what_the_template_makes_now(tmp_path):
    page.write(data_of(COMMITTED), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == COMMITTED.read_bytes()


def test_the_command_writes_the_page(network, few, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setenv("SVD_FIGURES", str(tmp_path))
    monkeypatch.setattr(page.data, "load", lambda dataset: asked.append(dataset) or few)
    kept = page.store.Baseline(network, {}, 1.0)
    monkeypatch.setattr(page.store, "baseline", lambda *given: asked.append(given) or kept)
    monkeypatch.setattr(page.model, "build", small)
    assert page.main(["--D", "40", "2", "--dataset", "subset", "--seed", "7"]) == 0
    assert asked == ["subset", (few, 15, 7)]
    found = data_of(tmp_path / page.NAME)
    assert (found["D"], found["seed"], found["epochs"]) == ([2, 32], 7, 15)
    assert capsys.readouterr().out.endswith(f"Written: {page.NAME} in {tmp_path.name}/\n")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--D", "5", "0"], "D must be a whole number of singular values, at least 1, not 0."),
        (["--seed", "-1"], "seed must be a whole number from 0 to 2**32 - 1, not -1."),
        (["--dataset", "letters"], "dataset 'letters' is unknown"),
    ],
)
def test_a_wrong_argument_is_one_sentence_before_any_work(wrong, says, monkeypatch, capsys):
    monkeypatch.delattr(page.store, "baseline")
    assert page.main(wrong) == 2
    error = capsys.readouterr().err
    assert (error[: len(says)], error.count("\n")) == (says, 1)


# In a browser


@pytest.fixture(scope="module")
def browser():
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not binary or not shutil.which("chromedriver"):
        pytest.skip("no Chromium with its chromedriver is installed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Neither root nor a container has what the sandbox and shared memory need.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(params=["small", "committed"])
def opened(request, browser, written):
    """A function that opens the page, on a screen so wide and in a scheme, and the data in it."""
    path = written if request.param == "small" else COMMITTED

    def open_page(width=1000, scheme="light"):
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        preferred = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preferred]})
        browser.get(path.as_uri())
        return browser.find_element("id", "D")

    yield open_page, data_of(path)
    assert browser.get_log("browser") == []  # of the console


def press(element, key):
    from selenium.webdriver.common.keys import Keys

    element.send_keys(getattr(Keys, key))


def table(browser, name):
    """The rows of a table, a list of texts each."""
    script = """return [...document.getElementById(arguments[0]).rows].map(
        (row) => [...row.cells].map((cell) => cell.textContent))"""
    return browser.execute_script(script, name)


def shows(browser):
    """What changes when the slider or the choice of a method does."""
    return browser.execute_script("""
        const at = (id) => document.getElementById(id);
        return {says: at("says").textContent, value: at("D").getAttribute("aria-valuetext"),
            W_D: at("W_D").src, rest: at("rest").src, rank: at("rank").textContent,
            misread: at("misread").textContent, digits: at("digits").textContent,
            marks: at("spectrum").querySelectorAll("circle, polygon").length,
            chart: at("accuracies").innerHTML}""")


def test_arrow_keys_move_the_slider_and_numbers_follow(opened, browser):
    open_page, measured = opened
    slider = open_page()
    press(slider, "HOME")
    plain, best = measured["methods"].values()
    seen = []
    for i, D in enumerate(measured["D"]):
        text, found = dict((r[0], r[1:]) for r in table(browser, "numbers")), shows(browser)
        three = plain[i], best[i], plain[-1]
        assert text["test accuracy"] == [
            f"{100 * cut['accuracy']:.2f}\N{NO-BREAK SPACE}%" for cut in three
        ]
        assert text["parameters"] == [f"{cut['parameters']:,}" for cut in three]
        assert text["bytes"] == [
            f"{4e-6 * cut['parameters']:.2f}\N{NO-BREAK SPACE}MB" for cut in three
        ]
        assert found["says"] == ("D = all" if three[0] is plain[-1] else f"D = {D}")
        assert found["value"].startswith(found["says"] + ", test accuracy")
        assert (found["W_D"], found["rest"]) == (plain[i]["W_D"], plain[i]["rest"])
        assert found["rank"] == str(len(plain[i]["s"]))
        assert found["digits"] == "".join(
            f"{y} read as {read}" for _, y, read in plain[i]["digits"]
        )
        number = f"{plain[i]['misread']:,} test"
        assert found["misread"].startswith((number, "One test", "No test"))
        seen.append(found["chart"])
        press(slider, "ARROW_RIGHT")
    assert len(set(seen)) == len(measured["D"])


def test_the_other_method_is_chosen_by_keyboard(opened, browser):
    open_page, measured = opened
    press(open_page(), "HOME")
    before = shows(browser)
    press(browser.find_element("css selector", "input[value=plain]"), "ARROW_RIGHT")
    after, cut = shows(browser), measured["methods"][page.BEST][0]
    assert before["W_D"] != after["W_D"] == cut["W_D"]
    assert (after["rank"], after["marks"]) == (str(len(cut["s"])), len(cut["s"]))


def test_all_numbers_stand_in_a_table(opened, browser):
    open_page, measured = opened
    open_page()
    _, *rows = table(browser, "all")
    for i, row in enumerate(rows):
        plain, best = (cuts[i] for cuts in measured["methods"].values())
        assert row[1::2] == [
            f"{100 * cut['accuracy']:.2f}\N{NO-BREAK SPACE}%" for cut in (plain, best)
        ]
        assert row[2::2] == [f"{cut['parameters']:,}" for cut in (plain, best)]
    assert len(rows) == len(measured["D"])


def test_on_a_phone_nothing_is_wider_than_the_screen(opened, browser):
    open_page, _ = opened
    slider = open_page(width=360)
    browser.find_element("tag name", "summary").click()
    for key in ("HOME", "END", "ARROW_LEFT"):
        press(slider, key)
        assert browser.execute_script("return innerWidth") == 360
        wide = """return [...document.querySelectorAll("*")].filter((e) => e.scrollWidth > 360
            || e.getBoundingClientRect().right > 360).map((e) => e.tagName + e.id)"""
        assert browser.execute_script(wide) == []


CONTRASTS = """
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ground = light(getComputedStyle(document.body).backgroundColor);
const contrast = (colour) => {
  const other = light(colour);
  return (Math.max(ground, other) + 0.05) / (Math.min(ground, other) + 0.05);
};
const words = "h1, h2, p, label, legend, th, td, figcaption, summary";
const texts = [...document.querySelectorAll(words)];
const lines = [...document.querySelectorAll(".curve, .mark, .dotted, .dashed, .all")];
const numbers = [...document.querySelectorAll("svg text")];
return {ground, text: Math.min(...texts.map((e) => contrast(getComputedStyle(e).color)),
    ...numbers.map((e) => contrast(getComputedStyle(e).fill))),
  line: Math.min(...lines.map((e) => contrast(getComputedStyle(e).stroke))),
  count: [texts.length, lines.length, numbers.length]};
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_ground(scheme, opened, browser):
    """By WCAG 2.2: 4.5 for text, 3 for what a picture needs."""
    open_page, _ = opened
    open_page(scheme=scheme)
    found = browser.execute_script(CONTRASTS)
    assert (found["ground"] < 0.05) == (scheme == "dark")
    assert min(found["count"]) > 4
    assert found["text"] >= 4.5
    assert found["line"] >= 3


def test_pictures_have_words_and_controls_have_names(opened, browser):
    open_page, _ = opened
    open_page()
    unnamed = """return [...document.querySelectorAll("img, svg[role=img], input")].filter((e) =>
        e.matches("input") ? !e.labels.length : !(e.alt || e.getAttribute("aria-label"))).length"""
    assert browser.execute_script(unnamed) == 0
    assert browser.execute_script("return document.getAnimations().length") == 0


def test_nothing_is_asked_of_a_network(opened, browser):
    open_page, _ = opened
    open_page()
    asked = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert all(name.startswith("data:") for name in browser.execute_script(asked))
    refused = """return new Promise((done) => {
        addEventListener("securitypolicyviolation", () => done(true));
        new Image().src = "file:///no.png"; })"""
    assert browser.execute_script(refused)
    browser.get_log("browser")  # holds the refusal
