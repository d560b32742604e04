package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// kept puts bytes into a store under their sum.
func kept(t *testing.T, objects string, text []byte) string {
	t.Helper()
	raw := sha256.Sum256(text)
	sum := hex.EncodeToString(raw[:])
	if err := os.MkdirAll(filepath.Join(objects, sum[:2]), 0o770); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(objects, sum[:2], sum), text, 0o440); err != nil {
		t.Fatal(err)
	}
	return sum
}

// layerOf is a layer with entries as no labctl writes them.
func layerOf(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	packed := gzip.NewWriter(&out)
	archive := tar.NewWriter(packed)
	for _, header := range headers {
		header.Mode = 0o644
		if header.Typeflag == 0 {
			header.Typeflag, header.Size = tar.TypeReg, 4
		}
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if header.Size > 0 {
			if _, err := archive.Write([]byte("evil")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if archive.Close() != nil || packed.Close() != nil {
		t.Fatal("cannot write the layer")
	}
	return out.Bytes()
}

func preparedWith(t *testing.T, base string, layers ...[]byte) outcome {
	t.Helper()
	objects := filepath.Join(base, "capsules")
	var names []map[string]any
	for _, text := range layers {
		names = append(names, map[string]any{"sha256": kept(t, objects, text), "size": len(text), "prefix": ""})
	}
	text, err := json.Marshal(map[string]any{"version": 1, "layers": names, "deleted": []string{}})
	if err != nil {
		t.Fatal(err)
	}
	run := strings.Replace(runText, "%s", base, 1)
	code := `,"code":{"digest":"` + kept(t, objects, text) + `","subdir":"","root":"/x"}}`
	run = strings.TrimSuffix(strings.TrimSpace(run), "}") + code
	if err := os.MkdirAll(filepath.Join(base, "runs"), 0o770); err != nil {
		t.Fatal(err)
	}
	return prepared(t, filepath.Join(base, "runs", "7_0_digits"), t.TempDir(), run)
}

func TestNothingIsWrittenOutsideOfTheCode(t *testing.T) {
	for name, test := range map[string]struct {
		layers [][]byte
		says   string
	}{
		"up":            {[][]byte{layerOf(t, tar.Header{Name: "../../evil"})}, "names a place outside"},
		"absolute":      {[][]byte{layerOf(t, tar.Header{Name: "/tmp/evil-labrun"})}, "names a place outside"},
		"hidden up":     {[][]byte{layerOf(t, tar.Header{Name: "a/../../evil"})}, "names a place outside"},
		"link up":       {[][]byte{layerOf(t, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "../.."})}, "leads out"},
		"absolute link": {[][]byte{layerOf(t, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"})}, "leads out"},
		"hard link":     {[][]byte{layerOf(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"})}, "no file in it"},
		"device":        {[][]byte{layerOf(t, tar.Header{Name: "a", Typeflag: tar.TypeChar})}, "no file in it"},
		"pipe":          {[][]byte{layerOf(t, tar.Header{Name: "a", Typeflag: tar.TypeFifo})}, "no file in it"},
		"no archive":    {[][]byte{[]byte("plain text")}, "is no archive"},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			got := preparedWith(t, base, test.layers...)
			if got.code != 1 {
				t.Errorf("%+v", got)
			}
			expectOneLine(t, got.stderr, test.says)
			for _, path := range []string{filepath.Join(base, "evil"), filepath.Join(base, "runs", "evil"), "/tmp/evil-labrun"} {
				if _, err := os.Lstat(path); err == nil {
					t.Errorf("%s was written", path)
				}
			}
			if _, err := os.Lstat(filepath.Join(base, "runs", "7_0_digits", "code")); err == nil {
				t.Error("half of the code is there")
			}
		})
	}
}

func TestFileUnderALinkOfAnEarlierLayerStaysInside(t *testing.T) {
	base := t.TempDir()
	first := layerOf(t, tar.Header{Name: "b/keep"}, tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "b"})
	second := layerOf(t, tar.Header{Name: "a/file"})
	if got := preparedWith(t, base, first, second); got.code != 0 {
		t.Fatalf("%+v", got)
	}
}

func TestCapsuleOfALaterKindIsRefused(t *testing.T) {
	base := t.TempDir()
	objects := filepath.Join(base, "capsules")
	run := strings.Replace(runText, "%s", base, 1)
	code := `,"code":{"digest":"` + kept(t, objects, []byte(`{"version":2}`)) + `","subdir":"","root":"/x"}}`
	if err := os.MkdirAll(filepath.Join(base, "runs"), 0o770); err != nil {
		t.Fatal(err)
	}
	got := prepared(t, filepath.Join(base, "runs", "7_0_digits"), t.TempDir(), strings.TrimSuffix(strings.TrimSpace(run), "}")+code)
	if got.code != 1 {
		t.Errorf("%+v", got)
	}
	expectOneLine(t, got.stderr, "a kind that this cluster does not know: version 2")
}
