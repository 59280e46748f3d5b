import base64
import io
import itertools
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers import PROJECT, compress, model, svd
from helpers.backend import keras
from helpers.lab import page

from .test_figures import luminance

COMMITTED = PROJECT / "figures" / page.NAME
BROWSERS = "chromium", "google-chrome", "chrome", "chromium-browser"


def small(width=32):
    """As the baseline is built, but narrow."""
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(width, "relu", name=f"hidden_{i}") for i in range(1, 4)]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10, name="output")])


@pytest.fixture(scope="module")
def network(few):
    trained = small()
    trained.compile("adam", page.LOSS)
    trained.fit(*few.train, epochs=15, verbose=0)
    return trained


@pytest.fixture(scope="module")
def measured(network, few):
    return page.measure(network, small(), few, [3, 1], tuned=1) | {"epochs": 15, "seed": 0}


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="measured">(.*?)</script>', text, re.DOTALL)[1])


def pixels(uri):
    kind, content = uri.split(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"), float)


def test_cuts_are_what_compress_and_fine_tuning_make(measured, network, few):
    plain = compress.factorize(network, 3)
    found = compress.observe(network, few.x_train, page.LOSS).cut(parameters=plain.count_params())
    tuned, _ = model.fine_tune(found.network, few, epochs=1, seed=0)
    assert measured["D"] == [1, 3]
    uncut = {"parameters": network.count_params(), "widths": [784, 32, 32, 32, 10]}
    assert uncut.items() <= measured["uncut"].items()
    for made, cuts in zip([plain, found.network, tuned], measured["methods"].values(), strict=True):
        assert cuts[1]["accuracy"] == pytest.approx(model.accuracy(made, *few.test), abs=2e-3)
        assert cuts[1]["parameters"] == made.count_params() <= plain.count_params()
    (_, plain), *others = measured["methods"].values()
    assert (plain["widths"], plain["ranks"]) == ([784, 32, 32, 32, 10], [3, 3, 3, None])
    names = ["hidden_1", "hidden_2", "hidden_3"]
    for _, cut in others:
        assert cut["widths"] == [784, *(found.widths[name] for name in names), 10]
        assert cut["ranks"] == [found.ranks.get(name) for name in [*names, "output"]]


def test_misread_digits_are_read_right_by_the_uncut_network(measured, network, few):
    right = model.logits(network, few.x_test).argmax(axis=1) == few.y_test
    for D, found in zip([1, 3], measured["methods"][page.PLAIN], strict=True):
        read = model.logits(compress.truncate(network, D), few.x_test).argmax(axis=1)
        worse = [i for i in range(len(read)) if right[i] and read[i] != few.y_test[i]]
        assert found["misread"] == len(worse) > 0
        assert found["digits"] == [[i, few.y_test[i], read[i]] for i in worse[: page.DIGITS]]
        for i in worse[: page.DIGITS]:
            ink = 255 - pixels(measured["images"][str(i)])[..., 0]
            assert np.allclose(ink, 255 * few.x_test[i].reshape(28, 28), atol=1)


def test_pictures_are_orange_below_zero_and_purple_above(measured, network, few):
    """Nine columns, three in a row; beyond the scale, the colour of its end."""
    W, top = network.get_layer("hidden_1").get_weights()[0], measured["top"]
    seen = compress.observe(network, few.x_train, page.LOSS)
    picture, scale = pixels(measured["W"]), pixels(measured["scale"])[0]
    red, _, blue = np.moveaxis(picture, -1, 0)
    assert scale[0, 0] - scale[0, 2] > 60  # orange
    assert scale[-1, 2] - scale[-1, 0] > 20  # purple
    columns = np.zeros((87, 87))
    for k, unit in enumerate(seen.neurons["hidden_1"].order[:9]):
        down, across = 29 * (k // 3), 29 * (k % 3)
        columns[down : down + 28, across : across + 28] = W[:, unit].reshape(28, 28)
    assert (red > blue)[columns < -0.1 * top].all()
    assert (blue > red)[columns > 0.1 * top].all()
    assert (picture[columns == 0] > 235).all()  # white: between the images, and at 0
    assert (picture[columns < -1.001 * top] == scale[0]).all()
    assert (picture[columns > 1.001 * top] == scale[-1]).all()


def test_a_neuron_that_is_gone_is_blank_and_wholly_lost(measured):
    """At D = 1 fewer neurons stay than are shown."""
    cut = measured["methods"][page.CUT][0]
    assert 0 < cut["widths"][1] < page.UNITS**2
    W, left, lost = (pixels(picture) for picture in (measured["W"], cut["left"], cut["lost"]))
    assert (left[58:, 58:] > 235).all()  # the ninth that would be kept
    assert (lost[58:, 58:] == W[58:, 58:]).all()
    assert (left[:28, :28] < 235).any()


def test_the_page_holds_what_was_measured_whatever_it_is_called(measured, tmp_path):
    named = measured | {"dataset": "</script><b>$measured"}
    page.write(named, tmp_path / "page.html")
    assert data_of(tmp_path / "page.html") == json.loads(json.dumps(named))
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("</script>") == 2


def test_the_page_needs_nothing_else_and_is_small():
    text = COMMITTED.read_text(encoding="utf-8")
    text = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert re.findall(r"//\w[^\s\"']+", text) == ["//www.w3.org/2000/svg"]  # the name of a kind
    assert re.findall(r' (?:src|href)="([^"]*)"', text) == ["data:,"]
    assert "default-src 'none'" in text
    assert COMMITTED.stat().st_size < 1e6


def test_the_committed_page_is_what_the_template_makes_now(tmp_path):
    page.write(data_of(COMMITTED), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == COMMITTED.read_bytes()


def test_the_command_writes_the_page(network, measured, few, tmp_path, monkeypatch, capsys):
    asked = []
    kept = page.store.Baseline(network, {})
    monkeypatch.setenv("SVD_FIGURES", str(tmp_path))
    monkeypatch.setattr(page.data, "load", lambda dataset: asked.append(dataset) or few)
    monkeypatch.setattr(page.store, "baseline", lambda *given: asked.append(given) or kept)
    monkeypatch.setattr(page, "measure", lambda *given, seed: asked.append(seed) or measured)
    assert page.main(["--D", "3", "1", "--dataset", "subset", "--seed", "7"]) == 0
    assert asked == ["subset", (few, 15, 7), 7]
    assert data_of(tmp_path / page.NAME) == json.loads(json.dumps(measured | {"seed": 7}))
    assert capsys.readouterr().out == f"Written: {page.NAME} in {tmp_path.name}/\n"


def test_the_edge_of_the_noise_is_its_largest_singular_value():
    noise = np.random.default_rng(0).normal(0, model.initial_std(784), (784, 400))
    largest = svd.decompose(0.2 * noise).s[0]
    assert page._edge(0.2 * noise, noise) == pytest.approx(largest, rel=0.02)


def test_a_wrong_argument_is_one_sentence_before_any_work(monkeypatch, capsys):
    monkeypatch.delattr(page.store, "baseline")
    for *wrong, says in (
        ("--D", "5", "0", "D must be a whole number of singular values, at least 1, not 0."),
        ("--dataset", "letters", "dataset 'letters' is unknown"),
    ):
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


@pytest.fixture(scope="module")
def loaded(browser, tmp_path_factory):
    """Opens the committed data, in the template of now, once for all tests."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    page.write(data_of(COMMITTED), path)
    browser.get(path.as_uri())
    return data_of(path)


@pytest.fixture
def opened(loaded, browser):
    """A function that shows the page at its smallest D, on a screen so wide and in a scheme."""

    def open_page(width=1280, scheme="light"):
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        preferred = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preferred]})
        browser.execute_script("document.querySelector('form').reset(); moveTo(0)")
        return browser.find_element("id", "D")

    yield open_page, loaded
    assert browser.get_log("browser") == []  # of the console


def press(element, key):
    from selenium.webdriver.common.keys import Keys

    element.send_keys(getattr(Keys, key))


def shows(browser):
    """What changes when the slider or the choice of a method does."""
    return browser.execute_script("""
        const at = (id) => document.getElementById(id);
        const cells = (row) => [...row.cells].map((cell) => cell.textContent);
        return {says: at("says").textContent, value: at("D").getAttribute("aria-valuetext"),
            numbers: [...at("numbers").rows].map(cells), left: at("left").src, lost: at("lost").src,
            misread: at("misread").textContent, digits: at("digits").textContent,
            network: [...at("network").querySelectorAll("text")].map((e) => e.textContent)}""")


def expected(measured, method, i):
    """The same, from the data."""
    cuts = [cuts[i] for cuts in measured["methods"].values()]
    cut, accuracies = cuts[method], [f"{100 * c['accuracy']:.2f}\N{NO-BREAK SPACE}%" for c in cuts]
    said = "; ".join(f"{name} {a}" for name, a in zip(measured["methods"], accuracies, strict=True))
    between = zip((rank or "–" for rank in cut["ranks"]), cut["widths"][1:], strict=True)
    return {
        "says": f"D = {measured['D'][i]}",
        "value": f"D = {measured['D'][i]}, test accuracy {said}",
        "left": cut["left"],
        "lost": cut["lost"],
        "digits": "".join(f"{y} read as {read}" for _, y, read in cut["digits"]),
        "network": ["ranks", "widths", "784", *map(str, itertools.chain(*between))],
    }


def test_keys_move_the_slider_and_choose_the_method(opened, browser):
    open_page, measured = opened
    slider, last = open_page(), len(measured["D"]) - 1
    for method in range(len(page.METHODS)):
        press(slider, "HOME")
        for i in range(last + 1):
            found = shows(browser)
            assert expected(measured, method, i).items() <= found.items()
            misread = measured["methods"][page.METHODS[method]][i]["misread"]
            assert found["misread"].startswith((f"{misread:,} test", "One test", "No test"))
            press(slider, "ARROW_RIGHT")
        for row, cuts in zip(found["numbers"][1:], measured["methods"].values(), strict=False):
            cut = cuts[last]
            kept = 100 * cut["parameters"] / measured["uncut"]["parameters"]
            sizes = f"{cut['parameters']:,}", f"{kept:.1f} %", f"{4e-6 * cut['parameters']:.2f} MB"
            assert [cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row[2:]] == [*sizes]
        press(browser.find_element("css selector", "input[name=method]:checked"), "ARROW_RIGHT")


@pytest.mark.parametrize("width", [400, 1280])
def test_all_is_on_the_screen_and_the_handle_above_its_D(width, opened, browser):
    """The handle of Chromium is 16 pixels wide."""
    open_page, measured = opened
    slider = open_page(width)
    browser.execute_script("document.querySelector('details').open = true")
    wide = """return [...document.querySelectorAll("*")].filter((e) => e.scrollWidth > innerWidth
        || e.getBoundingClientRect().right > innerWidth).map((e) => e.tagName + e.id)"""
    for _ in measured["D"]:
        handle, *lines = browser.execute_script("""
            const slider = document.getElementById("D"), box = slider.getBoundingClientRect();
            const share = (slider.value - slider.min) / (slider.max - slider.min);
            const middle = (box) => box.left + box.width / 2;
            return [box.left + 8 + share * (box.width - 16), ...[...document
                .querySelectorAll(".mark")].map((e) => middle(e.getBoundingClientRect()))]""")
        assert lines == [pytest.approx(handle, abs=1)] * 2
        assert browser.execute_script("return innerWidth") == width
        assert browser.execute_script(wide) == []
        press(slider, "ARROW_RIGHT")


def test_dragging_stops_at_the_nearest_D(opened, browser):
    opened[0]()
    browser.execute_script(
        """const slider = document.getElementById("D");
        slider.value = Math.log(arguments[0]); slider.dispatchEvent(new Event("input"))""",
        5.4,
    )
    assert shows(browser)["says"] == "D = 5"


COLOURS = """
const of = (names, what) =>
  [...document.querySelectorAll(names)].map((element) => getComputedStyle(element)[what]);
const words = "h1, h2, p, label, legend, th, td, figcaption, summary";
const lines = ".curve, .mark, .dotted, .dashed, .spectrum, .outline";
return [of("body", "backgroundColor"), of(words, "color"), of("svg text", "fill"),
  of(lines, "stroke")];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_from_the_ground(scheme, opened, browser):
    """By WCAG 2.2: 4.5 for text, 3 for what a picture needs."""
    opened[0](scheme=scheme)
    (ground,), *others = (
        [luminance([float(c) / 255 for c in re.findall(r"[\d.]+", colour)[:3]]) for colour in found]
        for found in browser.execute_script(COLOURS)
    )
    assert (ground < 0.05) == (scheme == "dark")
    for lights, least in zip(others, (4.5, 4.5, 3), strict=True):
        assert len(lights) > 4
        for light in lights:
            assert (max(light, ground) + 0.05) / (min(light, ground) + 0.05) >= least


def test_pictures_have_words_and_controls_have_names(opened, browser):
    opened[0]()
    unnamed = """return [...document.querySelectorAll("img, svg[role=img], input")].filter((e) =>
        e.matches("input") ? !e.labels.length : !(e.alt || e.getAttribute("aria-label"))).length"""
    assert browser.execute_script(unnamed) == 0
