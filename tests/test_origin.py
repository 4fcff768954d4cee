"""What files say about their own origin: records written by the libraries themselves, and hostile ones."""

from __future__ import annotations

import csv
import datetime
import io
import json
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from PIL import Image, TiffImagePlugin
from PIL.ExifTags import Base
from PIL.PngImagePlugin import PngInfo

import inference
from data.open_corpus.listing import Origin, Picture
from gapl.labels import Label
from gapl.origin import Finding, describe, read_origin
from gapl.origin.names import of_credit, of_program
from gapl.origin.trust import read_trusted
from gapl.origin.xmp import read_xmp
from gapl.results import OF_FILE
from studies import origin

if TYPE_CHECKING:
    from tests.conftest import Finished, MakeImage, RunCli, TinyRun

PROJECT = Path(__file__).resolve().parent.parent
GENERATED, EDITED, CAMERA = "made by a generator", "edited with a generator", "taken by a camera"
SCANNED = "digitised by a scanner"
SOFTWARE, UNCLEAR = "made or saved with software", "unclear"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"
IMAGE = Image.effect_noise((48, 40), 60).convert("RGB")


def saved(format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    IMAGE.save(stream, format, **options)
    return stream.getvalue()


def png(keyword: str, text: str, *, how: str = "tEXt") -> bytes:
    info = PngInfo()
    if how == "iTXt":
        info.add_itxt(keyword, text, zip=True)
    else:
        info.add_text(keyword, text, zip=how == "zTXt")
    return saved("PNG", pnginfo=info)


def exif(**fields: str | bytes) -> bytes:
    """Return EXIF as Pillow writes it."""
    block = Image.Exif()
    for name, value in fields.items():
        if name == "UserComment":
            block.get_ifd(Base.ExifOffset)[Base.UserComment] = value
        else:
            block[Base[name]] = value
    return block.tobytes()


def xmp(inside: str) -> bytes:
    return (
        '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
        ' xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
        ' xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:t="http://purl.org/dc/terms/">'
        f'{inside}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def told(encoded: bytes) -> list[tuple[str, str, str]]:
    """Return kind, what is said and name of each finding."""
    return [(each.kind, each.says, each.name) for each in read_origin(encoded)]


# ---------------------------------------------------------------------------------------------------------
# Texts of generators

A1111 = "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Model: dreamshaper_8"
GRAPH = {"4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd\\juggernautXL.safetensors"}}}
WORKFLOW = {"last_node_id": 9, "nodes": [{"id": 5, "type": "KSampler"}]}
TEXTS = [
    ("parameters", A1111, GENERATED, "AUTOMATIC1111 dreamshaper_8"),
    ("parameters", "gain=3", UNCLEAR, ""),
    ("parameters", '{"sui_image_params": {"model": "flux1-dev"}}', GENERATED, "SwarmUI flux1-dev"),
    ("prompt", json.dumps(GRAPH), GENERATED, "ComfyUI juggernautXL.safetensors"),
    ("prompt", '{"1": {"class_type": "SamplerCustomAdvanced", "is": [NaN]}}', GENERATED, "ComfyUI"),
    ("prompt", '{"1": {"class_type": "ImageScale"}}', UNCLEAR, "ComfyUI"),
    ("workflow", json.dumps(WORKFLOW), UNCLEAR, "ComfyUI"),
    (
        "invokeai_metadata",
        '{"model": {"key": "1", "name": "Juggernaut XL v9"}}',
        GENERATED,
        "InvokeAI Juggernaut XL v9",
    ),
    ("Software", "NovelAI", GENERATED, "NovelAI"),
    ("Description", "a fox --v 6.1 Job ID: 826ac0a7-c9b9-4eda-b2cb-ef7dd4bc8ee3", GENERATED, "Midjourney v 6.1"),
    ("Software", "GIMP 2.10", SOFTWARE, "GIMP 2.10"),
]


@pytest.mark.parametrize(("keyword", "text", "says", "name"), TEXTS)
@pytest.mark.parametrize("how", ["tEXt", "zTXt", "iTXt"])
def test_a_text_of_a_generator_is_told(how: str, keyword: str, text: str, says: str, name: str) -> None:
    (finding,) = read_origin(png(keyword, text, how=how))
    assert (finding.kind, finding.says, finding.name) == ("png_text", says, name)
    assert finding.where == f"{how} {keyword}"


def test_other_texts_say_nothing() -> None:
    for keyword, text in [
        ("Description", "a photo of Midjourney's office"),
        ("Comment", "x"),
        ("Source", "a book"),
    ]:
        assert read_origin(png(keyword, text)) == []


def test_a_workflow_is_clear_only_beside_the_prompt_that_made_the_image() -> None:
    info = PngInfo()
    info.add_text("workflow", json.dumps(WORKFLOW))
    info.add_text("prompt", json.dumps(GRAPH))
    both = saved("PNG", pnginfo=info)
    assert told(both) == [("png_text", GENERATED, "ComfyUI juggernautXL.safetensors")]


def test_texts_behind_the_pixels_are_found() -> None:
    """As some programs write them; the pixels are not decoded for it."""
    content = saved("PNG")
    text = b"parameters\0" + A1111.encode()
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    end = content.rindex(b"IEND") - 4
    assert told(content[:end] + chunk + content[end:]) == [("png_text", GENERATED, "AUTOMATIC1111 dreamshaper_8")]


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG", "AVIF", "TIFF"])
@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-16-le", "ascii"])
def test_what_generators_put_into_exif(format: str, encoding: str) -> None:
    code = b"ASCII\0\0\0" if encoding == "ascii" else b"UNICODE\0"
    block = exif(UserComment=code + A1111.encode(encoding))
    assert told(saved(format, exif=block)) == [("exif", GENERATED, "AUTOMATIC1111 dreamshaper_8")]


def test_comfyui_writes_into_the_fields_of_the_camera() -> None:
    block = exif(Model=f"prompt:{json.dumps(GRAPH)}", Make=f"workflow:{json.dumps(WORKFLOW)}")
    assert told(saved("WEBP", exif=block)) == [("exif", GENERATED, "ComfyUI juggernautXL.safetensors")]


def test_a_comment_of_a_jpeg() -> None:
    assert told(saved("JPEG", comment=A1111)) == [("comment", GENERATED, "AUTOMATIC1111 dreamshaper_8")]
    assert read_origin(saved("JPEG", comment="a holiday")) == []


# ---------------------------------------------------------------------------------------------------------
# EXIF, XMP, IPTC


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG", "AVIF", "TIFF"])
def test_a_camera_is_told_as_no_proof(format: str) -> None:
    content = saved(format, exif=exif(Make="NIKON CORPORATION", Model="NIKON D90", Software="Ver.1.00"))
    findings = read_origin(content)
    assert [(each.where, each.says, each.name) for each in findings] == [
        ("Software", SOFTWARE, "Ver.1.00"),
        ("Make, Model", CAMERA, "NIKON CORPORATION NIKON D90"),
    ]
    assert describe(findings) == (
        "the file says that a camera took it (NIKON CORPORATION NIKON D90), which is no proof: anyone can write, "
        "copy or remove it"
    )


FIELDS = [
    f'<rdf:Description e:DigitalSourceType="{SOURCE_TYPE}trainedAlgorithmicMedia"/>',
    f"<rdf:Description><e:DigitalSourceType>{SOURCE_TYPE}trainedAlgorithmicMedia</e:DigitalSourceType>"
    "</rdf:Description>",
    f'<rdf:Description><e:DigitalSourceType rdf:resource="{SOURCE_TYPE}trainedAlgorithmicMedia"/>'
    "</rdf:Description>",
]


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG", "AVIF", "TIFF"])
@pytest.mark.parametrize("inside", FIELDS, ids=["attribute", "element", "resource"])
def test_the_digital_source_type_of_iptc(format: str, inside: str) -> None:
    if format == "PNG":
        content = png("XML:com.adobe.xmp", xmp(inside).decode(), how="iTXt")
    elif format == "TIFF":
        content = saved("TIFF", tiffinfo={700: xmp(inside)})
    else:
        content = saved(format, xmp=xmp(inside))
    (finding,) = read_origin(content)
    assert (finding.kind, finding.says, finding.text) == ("iptc", GENERATED, "trainedAlgorithmicMedia")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("compositeWithTrainedAlgorithmicMedia", EDITED),
        ("digitalCapture", CAMERA),
        ("screenCapture", SOFTWARE),
        ("composite", UNCLEAR),
        ("somethingNew", UNCLEAR),
    ],
)
def test_digital_source_types(name: str, says: str) -> None:
    content = saved("JPEG", xmp=xmp(f'<rdf:Description e:DigitalSourceType="{SOURCE_TYPE}{name}"/>'))
    assert [each.says for each in read_origin(content)] == [says]


def test_program_and_credit_in_xmp() -> None:
    credit = "<photoshop:Credit><rdf:Alt><rdf:li>Made with Google AI</rdf:li></rdf:Alt></photoshop:Credit>"
    inside = f'<rdf:Description xmp:CreatorTool="Adobe Firefly">{credit}</rdf:Description>'
    expected = [("xmp", GENERATED, "Adobe Firefly"), ("xmp", GENERATED, "Made with Google AI")]
    assert told(saved("JPEG", xmp=xmp(inside))) == expected
    for name, says in [("Edited with Google AI", [EDITED]), ("Jane Doe, AI Photos Ltd", [])]:
        inside = f'<rdf:Description photoshop:Credit="{name}"/>'
        assert [each.says for each in read_origin(saved("JPEG", xmp=xmp(inside)))] == says


@pytest.mark.parametrize(
    ("credit", "says"),
    [
        ("Adobe Firefly", GENERATED),
        ("Adobe_Firefly/3.0", GENERATED),
        ("Firefly (Beta)", GENERATED),
        ("Grok 2", GENERATED),
        ("xAI Grok", GENERATED),
        ("Image Creator from Microsoft Designer", GENERATED),
        ("Created by Grok.", GENERATED),
        ("Made with Adobe Firefly, 2025", GENERATED),
        ("Edited with Firefly", EDITED),
        ("Azure OpenAI DALL-E3", GENERATED),
        ("Created using generative AI tools", GENERATED),
        ("Hawkeye Firefly", ""),
        ("Grok Mueller", ""),
        ("Created by Grok Mueller", ""),
        ("Photographs by Firefly Ltd", ""),
        ("Created by Jane Doe for AI Magazine", ""),
        ("Created by Jane for AI.", ""),
        ("Stable Air", ""),
        ("DALL-E", GENERATED),
        ("DALL·E 2", GENERATED),
        ("Dall.E", GENERATED),
        ("DALL E", GENERATED),
        ("DALLE", GENERATED),
        ("DallE by Jane", GENERATED),
        ("dalle3", GENERATED),
        ("Jane, with dall-e 3", GENERATED),
        ("Jane, with dalle-3", GENERATED),
        ("Made with DALLE 3", GENERATED),
        ("Immagine concessa dalle Gallerie degli Uffizi", ""),
        ("FOTO CONCESSA DALLE GALLERIE DEGLI UFFIZI", ""),
        ("Aperto dalle 3 alle 5", ""),
        ("Béatrice Dalle", ""),
        ("Dalle", ""),
        ("Photo by Dall E. Smith", ""),
        ("Tencent Hunyuan", GENERATED),
        ("Jane, with HunyuanImage", GENERATED),
        ("Hanging Temple, Hunyuan County", ""),
        ("DreamStudio 2", GENERATED),
        ("Dreamstudio Fotografie Bern", ""),
        ("Made with Playground AI", GENERATED),
        ("Dal playground ai giardini", ""),
        ("Made with Ai", GENERATED),
        ("Created by generative ai", GENERATED),
        ("Made with Leonardo AI", GENERATED),
        ("Created by Weiwei Ai", ""),
        ("Edited by Jane Ai.", ""),
    ],
)
def test_a_credit_claims_a_generator_where_it_is_no_name_of_others(credit: str, says: str) -> None:
    assert of_credit(credit) == says


@pytest.mark.parametrize(
    ("make", "model", "says"),
    [
        ("OpenAI", "", GENERATED),
        ("EPSON", "Perfection V600", SCANNED),
        ("SEIKO EPSON CORP.", "PhotoPC 3100Z", CAMERA),
        ("Canon", "CanoScan 9000F", SCANNED),
        ("NIKON", "NIKON D90", CAMERA),
    ],
)
def test_a_device_is_a_camera_a_scanner_or_none(make: str, model: str, says: str) -> None:
    assert [each.says for each in read_origin(saved("JPEG", exif=exif(Make=make, Model=model)))] == [says]
    tiff = 'xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    inside = f'<rdf:Description {tiff} tiff:Make="{make}" tiff:Model="{model}"/>'
    assert [each.says for each in read_origin(saved("JPEG", xmp=xmp(inside)))] == [says]


def test_a_manifest_that_is_kept_elsewhere_is_named_and_not_fetched() -> None:
    content = saved("JPEG", xmp=xmp('<rdf:Description t:provenance="https://example.org/m.c2pa"/>'))
    (finding,) = read_origin(content)
    assert (finding.kind, finding.says, finding.signature) == ("c2pa", UNCLEAR, "not read")
    assert finding.text == "kept elsewhere, not fetched: https://example.org/m.c2pa"


def test_the_credit_line_of_iptc_records() -> None:
    record = b"\x1c\x02\x6e\x00\x0cAI Generated"
    resource = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(record)) + record
    profile = f"\nIPTC profile\n{len(resource):8}\n{resource.hex()}\n"
    fields = TiffImagePlugin.ImageFileDirectory_v2()
    fields[0x83BB] = record
    fields.tagtype[0x83BB] = 7
    for content in (png("Raw profile type iptc", profile, how="zTXt"), saved("TIFF", tiffinfo=fields)):
        assert told(content) == [("iptc", GENERATED, "AI Generated")]


@pytest.mark.parametrize("credit", ["Not AI-generated", "Not made with AI", "never edited with AI", "Non-Firefly"])
def test_a_credit_that_denies_a_generator_names_none(credit: str) -> None:
    assert of_credit(credit) == ""
    assert of_program(credit) == SOFTWARE


# ---------------------------------------------------------------------------------------------------------
# C2PA


class Authority:
    """Signs manifests with certificates that it makes."""

    def __init__(self) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        def certificate(name: str, key: Any, issuer: Any, issuer_key: Any) -> Any:
            subject = x509.Name(
                [
                    x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, name),
                    x509.NameAttribute(x509.NameOID.COMMON_NAME, name),
                ]
            )
            is_root = issuer is None
            root_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
            now = datetime.datetime.now(datetime.UTC)
            usage = dict.fromkeys(
                ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"),
                False,
            )
            builder = (
                x509.CertificateBuilder()
                .subject_name(subject)
                .issuer_name(subject if is_root else issuer.subject)
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=1))
                .not_valid_after(now + datetime.timedelta(days=30))
                .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
                .add_extension(
                    x509.KeyUsage(
                        digital_signature=True,
                        key_cert_sign=is_root,
                        crl_sign=is_root,
                        decipher_only=False,
                        **usage,
                    ),
                    critical=True,
                )
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
                .add_extension(root_id, critical=False)
            )
            if not is_root:
                purpose = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
                builder = builder.add_extension(purpose, critical=False)
            return builder.sign(issuer_key, hashes.SHA256())

        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = certificate("Test Root", root_key, None, root_key)
        leaf = certificate("Test Maker", key, root, root_key)
        pem = serialization.Encoding.PEM
        self.root = root.public_bytes(pem).decode()
        self._chain = leaf.public_bytes(pem) + root.public_bytes(pem)
        self._key = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def sign(
        self, content: bytes, *actions: dict[str, Any], parent: bytes = b"", format: str = "image/jpeg"
    ) -> bytes:
        import c2pa

        manifest = {
            "claim_generator_info": [{"name": "Test Generator", "version": "1"}],
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": list(actions)}}],
        }
        settings = {"builder": {"thumbnail": {"enabled": False}}, "verify": {"verify_after_sign": False}}
        info = c2pa.C2paSignerInfo(b"es256", self._chain, self._key, None)
        out = io.BytesIO()
        with (
            c2pa.Context.from_dict(settings) as context,
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(manifest, context=context) as builder,
        ):
            if parent:
                ingredient = {"title": "parent", "relationship": "parentOf", "label": "before"}
                builder.add_ingredient(ingredient, format, io.BytesIO(parent))
            builder.sign(signer, format, io.BytesIO(content), out)
        return out.getvalue()


@pytest.fixture(scope="module")
def authority() -> Authority:
    pytest.importorskip("c2pa", reason="c2pa-python is not installed")
    pytest.importorskip("cryptography", reason="cryptography is not installed")
    return Authority()


CREATED = {
    "action": "c2pa.created",
    "digitalSourceType": f"{SOURCE_TYPE}trainedAlgorithmicMedia",
    "softwareAgent": {"name": "Test Model"},
}
OPENED = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["before"]}}
PLACED = {"action": "c2pa.edited", "digitalSourceType": f"{SOURCE_TYPE}compositeWithTrainedAlgorithmicMedia"}
TAKEN = {"action": "c2pa.created", "digitalSourceType": f"{SOURCE_TYPE}digitalCapture"}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "GIF"])
def test_a_manifest_of_an_unknown_signer(authority: Authority, format: str) -> None:
    signed = authority.sign(saved(format), CREATED, format=f"image/{format.lower()}")
    (finding,) = read_origin(signed)
    assert (finding.kind, finding.says, finding.name) == ("c2pa", GENERATED, "Test Model")
    assert finding.signature == "unknown signer"
    assert "signed by Test Maker" in finding.text
    assert "which is no proof" in describe([finding])


def test_a_manifest_of_a_trusted_signer(authority: Authority) -> None:
    (finding,) = read_origin(authority.sign(saved("JPEG"), CREATED), trusted=authority.root)
    assert finding.signature == "trusted"
    assert describe([finding]) == (
        "the file says that a generator made it (Test Model), and a trusted signer says so"
    )
    (other,) = read_origin(authority.sign(saved("JPEG"), CREATED), trusted=Authority().root)
    assert other.signature == "unknown signer"
    with pytest.raises(ValueError, match="trusted: no certificate in PEM"):
        read_origin(saved("JPEG"), trusted="me")


def test_trusted_certificates_are_read_from_a_file(authority: Authority, tmp_path: Path) -> None:
    other = Authority()
    damaged = authority.root + other.root.replace("M", "-", 5)
    file = tmp_path / "own.pem"
    file.write_text(f"# mine, café\n{other.root}# and\n{authority.root}", encoding="utf-8")
    (finding,) = read_origin(authority.sign(saved("JPEG"), CREATED), trusted=read_trusted(file))
    assert finding.signature == "trusted"
    for content, wrong in (("me", "no certificate"), (damaged, "certificate 2 is damaged")):
        file.write_text(content)
        with pytest.raises(ValueError, match=rf"own.pem: {wrong}; expected a file of certificates in PEM"):
            read_trusted(file)
    with pytest.raises(ValueError, match=r"gone.pem: no such file; expected a file of certificates in PEM"):
        read_trusted(tmp_path / "gone.pem")


def test_a_changed_file_breaks_the_signature(authority: Authority) -> None:
    signed = bytearray(authority.sign(saved("JPEG"), CREATED))
    signed[-20] ^= 1
    (finding,) = read_origin(bytes(signed), trusted=authority.root)
    assert (finding.says, finding.signature) == (GENERATED, "broken")
    assert "; file changed after it was signed" in finding.text
    assert "the file was changed after it was signed" in finding.line()
    assert "under a broken signature, which is no proof" in describe([finding])


def test_a_changed_record_of_what_was_opened_breaks_the_signature(authority: Authority) -> None:
    generated = authority.sign(saved("JPEG"), CREATED)
    signed = authority.sign(saved("JPEG"), OPENED, parent=generated)
    forged = signed.replace(b"trainedAlgorithmicMedia", b"digitalCapture/////////")
    assert forged != signed
    for content, state in ((signed, "trusted"), (forged, "broken")):
        (finding,) = read_origin(content, trusted=authority.root)
        assert finding.signature == state
    assert "a trusted signer says so" not in describe([finding])


def test_what_was_opened_counts(authority: Authority) -> None:
    generated, taken = authority.sign(saved("JPEG"), CREATED), authority.sign(saved("JPEG"), TAKEN)
    for parent, actions, says in [
        (taken, [], CAMERA),
        (taken, [PLACED], EDITED),
        (generated, [], GENERATED),
        (generated, [PLACED], GENERATED),
    ]:
        signed = authority.sign(saved("JPEG"), OPENED, *actions, parent=parent)
        assert [each.says for each in read_origin(signed)] == [says]


def test_a_manifest_without_its_package_is_named(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = authority.sign(saved("JPEG"), CREATED)
    monkeypatch.setitem(sys.modules, "c2pa", None)  # as if it was not installed
    (finding,) = read_origin(signed)
    assert (finding.kind, finding.says, finding.signature) == ("c2pa", UNCLEAR, "not read")
    assert "pip install c2pa-python" in finding.text


def test_a_broken_manifest_is_told(authority: Authority) -> None:
    signed = authority.sign(saved("JPEG"), CREATED)
    at = signed.index(b"jumb")
    hurt = bytearray(signed)
    hurt[at + 60 : at + 400 : 3] = bytes(len(hurt[at + 60 : at + 400 : 3]))
    (finding,) = read_origin(bytes(hurt))
    assert (finding.kind, finding.says, finding.signature) == ("c2pa", UNCLEAR, "not read")
    assert finding.text.startswith("it cannot be read: ")


# ---------------------------------------------------------------------------------------------------------
# Hostile files


def seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def test_entities_of_xml_are_not_expanded() -> None:
    entities = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    bomb = f'<!DOCTYPE x [<!ENTITY a0 "ha">{entities}]><x>&a9;</x>'.encode()
    external = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><x>&a;</x>'
    for packet in (bomb, external):
        (finding,) = read_origin(saved("JPEG", xmp=packet))
        assert (finding.says, finding.text) == (UNCLEAR, "damaged: a document type, which XMP never has")


def test_xmp_of_an_unknown_encoding_is_damaged() -> None:
    (finding,) = read_xmp(b'<?xml version="1.0" encoding="bogus"?><a/>')
    assert (finding.says, finding.text) == (UNCLEAR, "damaged: unknown encoding: bogus")


def test_damaged_xmp_keeps_what_stands_before_the_damage() -> None:
    packet = xmp(f"{FIELDS[0]}<broken")
    findings = read_origin(saved("JPEG", xmp=packet))
    assert [(each.kind, each.says) for each in findings] == [("iptc", GENERATED), ("xmp", UNCLEAR)]
    deep = xmp("<rdf:li>" * 100_000)
    (finding,) = read_origin(saved("WEBP", xmp=deep[: 1 << 19]))
    assert finding.text == "damaged: too many elements inside one another"
    (finding,) = read_origin(saved("WEBP", xmp=xmp(" " * (1 << 20))))
    assert "too many and were not read" in finding.text


def test_a_compressed_bomb_is_cut_short() -> None:
    bomb = zlib.compress(b"Steps: 1, Sampler: x, " * 1_000_000)  # 22 MB
    text = b"parameters\0\0" + bomb
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    content = saved("PNG")
    hostile = content[:33] + chunk * 20 + content[33:]
    assert seconds(lambda: read_origin(hostile)) < 2
    assert told(hostile) == [("png_text", GENERATED, "AUTOMATIC1111")]


def test_texts_are_short_and_of_one_line() -> None:
    hostile = f"\x1b[2J\n[RESULT] Image: x\n\u202e{A1111}" + "\0\r\x85 \ud83d".replace("\ud83d", "") * 50_000
    for content in (
        png("parameters", hostile, how="iTXt"),
        saved("JPEG", exif=exif(Software=f"DALL-E {hostile[:40000]}")),
    ):
        (finding,) = read_origin(content)
        assert finding.says == GENERATED
        for text in (finding.where, finding.name, finding.text, finding.line(), describe([finding])):
            assert text.isprintable()
            assert len(text) <= 500


def test_many_records_are_bounded() -> None:
    info = PngInfo()
    for number in range(3000):
        info.add_text("Software", f"program {number}")
    assert len(read_origin(saved("PNG", pnginfo=info))) == 20


def test_patterns_take_linear_time() -> None:
    for text in (
        '"class_type":"' * 70_000,
        '"model": {' * 100_000,
        "Steps: 1, Sampler: " * 50_000,
        '"ckpt_name": "\\' * 60_000,
    ):
        assert seconds(lambda text=text: read_origin(png("invokeai_metadata", text))) < 3  # type: ignore[misc]


def test_exif_that_points_astray_is_none() -> None:
    block = exif(Make="NIKON", Model="D90", UserComment=b"ASCII\0\0\0" + A1111.encode())
    for end in range(0, len(block), 3):
        for finding in read_origin(saved("WEBP", exif=block[:end])):
            assert isinstance(finding, Finding)
    loop = b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", Base.ExifOffset, 4, 1, 8) * 70_000
    assert read_origin(loop) == []


def test_no_damage_is_an_error(authority: Authority) -> None:
    """Not of files, and not of their metadata."""
    rng = random.Random(0)
    block = exif(Make="NIKON", Model="D90", Software="x", UserComment=b"UNICODE\0" + A1111.encode("utf-16-be"))
    originals = [
        authority.sign(saved("JPEG", exif=block, xmp=xmp(FIELDS[0])), CREATED),
        saved("WEBP", exif=block, xmp=xmp(FIELDS[2])),
        saved("TIFF", exif=block),
        png("parameters", A1111, how="zTXt"),
    ]
    for original in originals:
        for _ in range(60):
            hurt = bytearray(original)
            for _ in range(rng.choice((1, 5, 50))):
                hurt[rng.randrange(len(hurt))] = rng.randrange(256)
            findings = read_origin(bytes(hurt[: rng.choice((len(hurt), rng.randrange(len(hurt))))]))
            assert all(each.line().isprintable() for each in findings)
    assert read_origin(b"") == read_origin(b"no image") == read_origin(bytes(1000)) == []
    assert describe([]).startswith("the file has no record of its origin, which means nothing")


# ---------------------------------------------------------------------------------------------------------
# The study


def test_the_study_counts_what_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contents = {
        "camera": saved("JPEG", exif=exif(Make="NIKON")),
        "none": saved("JPEG"),
        "generator": png("parameters", A1111),
    }
    reads = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        source = "screenshot_a" if name == "generator" else "portrait_a"
        picture = Picture("train", Label.REAL, source, source, Origin("a/b", "1" * 40), "a.png", name)
        reads.append(origin.read(tmp_path, picture))
    table = origin.by_group(reads).set_index("group")
    assert list(table.index) == ["photographs", "non-photographs"]
    assert table.loc["photographs", ["files", "exif", "camera", "generator", "none"]].tolist() == [
        2,
        0.5,
        0.5,
        0,
        0.5,
    ]
    assert table.loc["non-photographs", ["files", "png_text", "generator"]].tolist() == [1, 1, 1]
    origin.tell_disagreements(reads)
    assert (
        "of 3 real pictures, 1 say so, and 1 say otherwise:\n  generator screenshot_a\n" in capsys.readouterr().out
    )


# ---------------------------------------------------------------------------------------------------------
# The command line


@pytest.fixture
def judge(run_cli: RunCli, tiny_run: TinyRun) -> Callable[..., Finished]:
    def run(*arguments: object) -> Finished:
        return run_cli(inference.main, "--model_path", tiny_run.stage2, "--allow-tiny", *arguments)

    return run


def test_explain_is_beside_the_verdict(
    judge: Callable[..., Finished], make_image: MakeImage, tmp_path: Path
) -> None:
    make_image(tmp_path / "in/b.png", size=(40, 40))
    (tmp_path / "in/a.png").write_bytes(png("parameters", A1111))
    (tmp_path / "in/c.png").write_bytes(png("parameters", A1111)[:-500])  # its pixels are cut off
    plain = [json.loads(line) for line in judge(tmp_path / "in", "--json").out.splitlines()]
    rows = [json.loads(line) for line in judge(tmp_path / "in", "--json", "--explain").out.splitlines()]
    schema = json.loads((PROJECT / "docs/result.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(rows)
    explanations = [row.pop("explanation") for row in rows]
    assert rows == plain
    (finding,) = read_origin(png("parameters", A1111))
    assert explanations[0]["origin"] == explanations[2]["origin"] == [asdict(finding)]
    assert {name: explanations[1][name] for name in OF_FILE} == {"origin": [], "origin_in_words": describe([])}
    assert set(explanations[2]) == set(OF_FILE)  # without a verdict there is none to explain
    text = judge(tmp_path / "in/a.png", "--explain").out
    assert f"\n  -> Origin: {describe([finding])}\n     - png_text, tEXt parameters: {GENERATED}" in text
    assert "Origin" not in judge(tmp_path / "in/a.png").out
    for format in ("csv", "json"):
        table = tmp_path / f"out.{format}"
        for _ in range(2):  # the second run brings the table up to date, with verdicts that it has
            assert judge(tmp_path / "in", "--out", table, "--explain", "--workers", 1).code == 1
        kept = list(csv.DictReader(table.open())) if format == "csv" else json.loads(table.read_text())
        shown = [json.loads(row["explanation"]) if format == "csv" else row["explanation"] for row in kept]
        assert shown == explanations


def test_trusted_signers_are_named_on_the_command_line(
    judge: Callable[..., Finished], authority: Authority, tmp_path: Path
) -> None:
    image, own, others = (tmp_path / name for name in ("a.jpg", "own.pem", "others.pem"))
    image.write_bytes(authority.sign(saved("JPEG"), CREATED))
    own.write_text(authority.root)
    others.write_text(Authority().root)
    for file, said in ((own, "and a trusted signer says so"), (others, "which is no proof")):
        assert said in judge(image, "--explain", "--trusted", file).out
    assert "--trusted needs --explain" in judge(image, "--trusted", own).only_error()
    replaced = judge(image, "--explain", "--trusted", own, "--gallery", own, "--overwrite").only_error()
    assert replaced == f"error: --gallery {own} is read by this command; name another file"
    refused = judge(image, "--explain", "--trusted", image).only_error()
    assert "argument --trusted: " in refused
    assert "a.jpg: no certificate; expected a file of certificates in PEM" in refused
