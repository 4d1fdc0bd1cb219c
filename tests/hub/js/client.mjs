// What tests/test_loopback_hub_js.py has the Hub's own JavaScript client do: node client.mjs SCENARIO, which prints one JSON object.
import * as hub from "@huggingface/hub";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

const hubUrl = process.env.HUB_URL;
const accessToken = process.env.HUB_TOKEN || undefined;
const repo = { type: "dataset", name: "birds/data" };
const common = { repo, hubUrl, accessToken };
const rows = new Uint8Array(25_000).map((_, index) => index % 250);
const blob = (content) => new Blob([content]);
const file = (path, content) => ({ path, content: blob(content) });

/** All that an async generator gives. */
async function all(generator) {
	const items = [];
	for await (const item of generator) items.push(item);
	return items;
}

/** The status that a call fails with; the error's name where it is none of the Hub's; null where it succeeds. */
async function status(promise) {
	try {
		await promise;
		return null;
	} catch (error) {
		return error.statusCode ?? error.constructor.name;
	}
}

/** The file's content, or null where there is no such file. */
async function text(path, more = {}) {
	const content = await hub.downloadFile({ ...common, path, ...more });
	return content && (await content.text());
}

const bytes = async (path, more = {}) => new Uint8Array(await (await hub.downloadFile({ ...common, path, ...more })).arrayBuffer());
const same = (left, right) => Buffer.from(left).equals(Buffer.from(right));
const paths = async (more = {}) => (await all(hub.listFiles({ ...common, recursive: true, ...more }))).map((entry) => entry.path);

/** A repository made, filled by one commit, listed and read. */
async function publish() {
	const card = blob("---\nlicense: mit\n---\n# Birds\n");
	const made = await hub.createRepo({ ...common, files: [{ path: "README.md", content: card }] });
	const uploaded = await hub.uploadFiles({
		...common,
		files: [
			file("notes.txt", "some notes"),
			file("data/a folder/train.parquet", rows),
			file("data/small.parquet", "few"),
			file("empty.txt", ""),
		],
		commitTitle: "all of it",
		useXet: process.env.USE_XET === "1",
	});
	const info = await hub.datasetInfo({ name: repo.name, hubUrl, accessToken, additionalFields: ["sha", "cardData", "tags"] });
	const part = (await hub.downloadFile({ ...common, path: "data/a folder/train.parquet" })).slice(240, 252);
	const download = await hub.fileDownloadInfo({ ...common, path: "data/a folder/train.parquet" });
	return {
		made,
		oid: uploaded.commit.oid,
		info,
		entries: await all(hub.listFiles({ ...common, recursive: true, expand: true })),
		inside: await paths({ path: "data/a folder", recursive: false }),
		download,
		part: [...new Uint8Array(await part.arrayBuffer())],
		large: same(await bytes("data/a folder/train.parquet"), rows),
		small: await text("data/small.parquet"),
		regular: await text("notes.txt"),
		pointer: await text("data/small.parquet", { raw: true }),
		missing: [await text("none.txt"), await hub.fileExists({ ...common, path: "none.txt" })],
		exists: await hub.fileExists({ ...common, path: "notes.txt" }),
		empty: await status(text("empty.txt")),
		known: [await hub.repoExists(common), await hub.repoExists({ ...common, repo: { type: "model", name: "birds/data" } })],
		who: await hub.whoAmI({ hubUrl, accessToken }),
	};
}

/** Commits on each other: with a parent, with a stale one, without any change, with deleted files. */
async function commits() {
	await hub.createRepo(common);
	const commit = async (title, operations, more = {}) => (await hub.commit({ ...common, title, operations, ...more })).commit.oid;
	const add = (path, content) => ({ operation: "addOrUpdate", path, content: blob(content) });
	const first = await commit("first", [add("a.txt", "1"), add("b.parquet", "1")]);
	const second = await commit("second", [add("a.txt", "2")], { parentCommit: first });
	const stale = await status(commit("stale", [add("a.txt", "3")], { parentCommit: first }));
	const again = await commit("again", [add("a.txt", "2")]);
	await hub.deleteFiles({ ...common, paths: ["b.parquet"], commitTitle: "deleted" });
	return {
		made: [again, second, first],
		stale,
		noFile: await status(hub.deleteFile({ ...common, path: "b.parquet" })),
		badCard: await status(commit("card", [add("README.md", "---\nlicense: [mit\n---\n")])),
		listed: await all(hub.listCommits({ ...common, batchSize: 2 })),
		count: await hub.countCommits(common),
		then: await text("b.parquet", { revision: first }),
		now: await text("b.parquet"),
	};
}

/** Branches, with a name that has to be quoted in addresses. */
async function branches() {
	await hub.createRepo(common);
	const branch = "next/try";
	await hub.uploadFile({ ...common, file: file("data/a.txt", "1") });
	await hub.createBranch({ ...common, branch });
	const again = [await status(hub.createBranch({ ...common, branch })), await status(hub.createBranch({ ...common, branch, overwrite: true }))];
	await hub.uploadFile({ ...common, branch, file: file("data/b.txt", "2") });
	const seen = {
		again,
		paths: await paths({ revision: branch }),
		inside: await paths({ revision: branch, path: "data" }),
		titles: (await all(hub.listCommits({ ...common, revision: branch }))).map((commit) => commit.title),
		texts: [await text("data/b.txt", { revision: branch }), await text("data/b.txt")],
		info: (await hub.datasetInfo({ name: repo.name, hubUrl, accessToken, revision: branch, additionalFields: ["sha"] })).sha,
	};
	await hub.createBranch({ ...common, branch: "bare", empty: true });
	seen.bare = [await text("data/a.txt", { revision: "bare" }), await paths({ revision: "bare" })];
	await hub.deleteBranch({ ...common, branch });
	seen.deleted = await status(text("data/a.txt", { revision: branch }));
	seen.refused = [await status(hub.deleteBranch({ ...common, branch })), await status(hub.deleteBranch({ ...common, branch: "main" }))];
	return seen;
}

/** A dataset that somebody else published and tagged. */
async function read() {
	const revision = "v1.0.0";
	const folder = await hub.snapshotDownload({ ...common, revision, cacheDir: process.env.CACHE });
	const names = (await all(hub.listFiles({ ...common, recursive: true, revision }))).filter((entry) => entry.type === "file");
	const contents = await Promise.all(names.map(async ({ path }) => [path, (await readFile(join(folder, path))).toString("base64")]));
	return {
		contents: Object.fromEntries(contents),
		info: await hub.datasetInfo({ name: repo.name, hubUrl, accessToken, revision, additionalFields: ["sha", "author"] }),
		paths: await hub.pathsInfo({ ...common, revision, paths: names.map(({ path }) => path), expand: true }),
		commits: (await all(hub.listCommits({ ...common, revision }))).map((commit) => commit.title),
		datasets: (await all(hub.listDatasets({ search: { owner: "birds" }, hubUrl, accessToken }))).map((dataset) => dataset.name),
	};
}

/** Every kind of call, and what becomes of it with this token. */
async function access() {
	const closed = { type: "dataset", name: "birds/closed" };
	return {
		create: await status(hub.createRepo({ ...common, repo: { type: "dataset", name: "birds/new" } })),
		createAgain: await status(hub.createRepo(common)),
		read: await status(hub.checkRepoAccess(common)),
		readPrivate: await status(hub.checkRepoAccess({ ...common, repo: closed })),
		commit: await status(hub.uploadFile({ ...common, file: file("a.txt", "1") })),
		branch: await status(hub.createBranch({ ...common, branch: "mine" })),
		gated: await status(text("a.txt", { repo: { type: "dataset", name: "birds/gated" } })),
		delete: await status(hub.deleteRepo({ ...common, repo: closed })),
	};
}

/** The same upload twice: tests have something go wrong with the first. */
async function twice() {
	const upload = () => hub.uploadFile({ ...common, file: file("a.parquet", "content") });
	return [await status(upload()), await status(upload())];
}

const scenarios = { publish, commits, branches, read, access, twice };
console.debug = () => {}; // the client's own talk
console.log(JSON.stringify(await scenarios[process.argv[2]]()));
