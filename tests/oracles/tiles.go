// Reads every entry of a folder of tiles by the tile reader of Go's checksum database, which verifies what it reads.
// tiles FOLDER VERIFIER-KEY
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

type folder string

func (f folder) Height() int { return 8 }

func (f folder) SaveTiles([]tlog.Tile, [][]byte) {}

func (f folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var found [][]byte
	for _, tile := range tiles {
		// The checksum database says the height in its paths, and `data` for entries.
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		content, err := os.ReadFile(filepath.Join(string(f), strings.Replace(path, "tile/data/", "tile/entries/", 1)))
		if err != nil {
			return nil, err
		}
		found = append(found, content)
	}
	return found, nil
}

func read(path, key string) (int64, error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return 0, err
	}
	message, err := os.ReadFile(filepath.Join(path, "checkpoint"))
	if err != nil {
		return 0, err
	}
	opened, err := note.Open(message, note.VerifierList(verifier))
	if err != nil {
		return 0, err
	}
	lines := strings.Split(opened.Text, "\n")
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return 0, err
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return 0, err
	}
	hashes := tlog.TileHashReader(tlog.Tree{N: size, Hash: root}, folder(path))
	for first := int64(0); first < size; first += 256 {
		width := size - first
		if width > 256 {
			width = 256
		}
		bundles, err := folder(path).ReadTiles([]tlog.Tile{{H: 8, L: -1, N: first / 256, W: int(width)}})
		if err != nil {
			return 0, err
		}
		bundle := bundles[0]
		for index := first; index < first+width; index++ {
			length := binary.BigEndian.Uint16(bundle)
			entry := bundle[2 : 2+length]
			bundle = bundle[2+length:]
			found, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
			if err != nil {
				return 0, err
			}
			if tlog.RecordHash(entry) != found[0] {
				return 0, fmt.Errorf("entry %d is not the record under the checkpoint", index)
			}
		}
	}
	return size, nil
}

func main() {
	size, err := read(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("%d entries\n", size)
}
